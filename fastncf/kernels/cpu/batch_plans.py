"""Plans of batches: which rows a batch of windows uses and where, and which negatives it draws.

The items of a batch have *slots*: the negatives come first, then the other items in the order in which the windows name
them. :mod:`fastncf.kernels.cpu.next_item` gathers, trains and updates by slots.
"""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import GOLDEN


class Windows(NamedTuple):
    """Parts of the histories of all users.

    A window has ``contexts[w] + lengths[w]`` tokens from ``starts[w]`` on. Each token but the first ``contexts[w]``
    is a position: its state predicts the item after it, or, for sets, the item of the token itself.

    Attributes:
        indptr: (U + 1,) int64, where the histories of the users begin and end in ``items``.
        items: (N,) int32, oldest first, user by user.
        users: (W,) int32.
        starts: (W,) int64, in ``items``.
        contexts: (W,) int32.
        lengths: (W,) int32, at least 1.
        interaction_weights: (N,) float32, what the loss of predicting each of ``items`` is multiplied by; empty if all
            are 1.
    """

    indptr: np.ndarray
    items: np.ndarray
    users: np.ndarray
    starts: np.ndarray
    contexts: np.ndarray
    lengths: np.ndarray
    interaction_weights: np.ndarray


class Epoch(NamedTuple):
    """Order and draws of an epoch.

    Attributes:
        order: (W,) int32, windows in the order of their visits.
        bounds: (B + 1,) int64, where batches begin and end in ``order``.
        key: uint64, of the negatives.
        num_items: I, int64.
        num_negatives: K, at most I, int64.
        num_slots: slots before that of the first item that is no negative, K rounded up, int64.
        lookahead: tokens from a position to the item that it predicts, int64: 1, or 0 for sets, where it predicts the
            item of its own token.
        has_fixed_states: whether states are not made of tokens, so that plans have none.
    """

    order: np.ndarray
    bounds: np.ndarray
    key: np.uint64
    num_items: int
    num_negatives: int
    num_slots: int
    lookahead: int
    has_fixed_states: bool


class Plans(NamedTuple):
    """Rows, uses and masks of R batches, a row for each batch, all int32 but ``sizes`` and the weights.

    Attributes:
        sizes: (R, 4) int64: windows, tokens, positions, slots.
        window_tokens: (R, windows + 1), first token of each window.
        window_positions: (R, windows + 1), first position of each window.
        token_slots: (R, tokens).
        target_slots: (R, positions), slot of the item that follows.
        position_windows: (R, positions).
        window_users: (R, windows).
        slot_items: (R, slots); the first are the negatives; -1 for slots without an item.
        input_indptr: (R, slots + 1), CSR of the tokens of each slot.
        input_tokens: (R, tokens).
        target_indptr: (R, slots + 1), CSR of the positions whose target a slot is.
        target_positions: (R, positions).
        mask_indptr: (R, windows + 1), CSR of the negatives that stand in the history of a window's user.
        mask_slots: (R, masks).
        target_weights: (R, positions) float32, see ``interaction_weights`` of :class:`Windows`; (R, 0) if all are 1.
    """

    sizes: np.ndarray
    window_tokens: np.ndarray
    window_positions: np.ndarray
    token_slots: np.ndarray
    target_slots: np.ndarray
    position_windows: np.ndarray
    window_users: np.ndarray
    slot_items: np.ndarray
    input_indptr: np.ndarray
    input_tokens: np.ndarray
    target_indptr: np.ndarray
    target_positions: np.ndarray
    mask_indptr: np.ndarray
    mask_slots: np.ndarray
    target_weights: np.ndarray


@njit(inline="always")
def draw_negative(key, number, k, num_items, num_negatives):
    """Return negative ``k`` of a batch, drawn from the k-th of K parts of the catalogue, and the size of the part."""
    first, last = k * num_items // num_negatives, (k + 1) * num_items // num_negatives
    place = np.uint64(number) * np.uint64(num_negatives) + np.uint64(k)
    bits = mix64(key + place * np.uint64(GOLDEN)) >> np.uint64(32)
    size = last - first
    return first + np.int64((bits * np.uint64(size)) >> np.uint64(32)), size


@njit(nogil=True, cache=True)
def plan_batches(first, last, first_planned, windows, epoch, plans):
    """Find slots, uses and masks of a range of batches.

    Args:
        first, last: range of batches of the epoch, int64.
        first_planned: batch whose plan is row 0 of ``plans``, int64.
        windows: :class:`Windows`.
        epoch: :class:`Epoch`.
        plans: :class:`Plans`, written.
    """
    slot_of = np.full(epoch.num_items, -1, dtype=np.int32)
    for number in range(first, last):
        row = number - first_planned
        _plan_slots(number, row, windows, epoch, plans, slot_of)
        _plan_masks(number, row, windows, epoch, plans, slot_of)
        num_slots = plans.sizes[row, 3]
        for slot in range(num_slots):
            item = plans.slot_items[row, slot]
            if item >= 0:
                slot_of[item] = -1
        tokens, positions = plans.sizes[row, 1], plans.sizes[row, 2]
        _invert(plans.token_slots[row], tokens, num_slots, plans.input_indptr[row], plans.input_tokens[row])
        _invert(plans.target_slots[row], positions, num_slots, plans.target_indptr[row], plans.target_positions[row])


@njit(nogil=True, cache=True)
def _plan_slots(number, row, windows, epoch, plans, slot_of):
    """Assign slots to negatives, tokens and targets of a batch."""
    slot_items = plans.slot_items[row]
    slot_items[: epoch.num_slots] = -1
    for k in range(epoch.num_negatives):
        item, _ = draw_negative(epoch.key, number, k, epoch.num_items, epoch.num_negatives)
        slot_items[k] = item
        slot_of[item] = k
    num_slots = epoch.num_slots
    token, position, count = 0, 0, 0
    for at in range(epoch.bounds[number], epoch.bounds[number + 1]):
        w = epoch.order[at]
        plans.window_tokens[row, count] = token
        plans.window_positions[row, count] = position
        plans.window_users[row, count] = windows.users[w]
        num_tokens = windows.contexts[w] + windows.lengths[w]
        for j in range(num_tokens + epoch.lookahead):
            item = windows.items[windows.starts[w] + j]
            slot = slot_of[item]
            if slot < 0:
                slot = num_slots
                slot_of[item] = slot
                slot_items[slot] = item
                num_slots += 1
            if j < num_tokens and not epoch.has_fixed_states:
                plans.token_slots[row, token] = slot
                token += 1
            if j >= windows.contexts[w] + epoch.lookahead:
                plans.target_slots[row, position] = slot
                plans.position_windows[row, position] = count
                if len(windows.interaction_weights):
                    plans.target_weights[row, position] = windows.interaction_weights[windows.starts[w] + j]
                position += 1
        count += 1
    plans.window_tokens[row, count] = token
    plans.window_positions[row, count] = position
    plans.sizes[row, 0], plans.sizes[row, 1], plans.sizes[row, 2], plans.sizes[row, 3] = (
        count,
        token,
        position,
        num_slots,
    )


@njit(nogil=True, cache=True)
def _plan_masks(number, row, windows, epoch, plans, slot_of):
    """List the negatives that stand in the history of each window's user."""
    count, total = 0, 0
    for at in range(epoch.bounds[number], epoch.bounds[number + 1]):
        user = windows.users[epoch.order[at]]
        plans.mask_indptr[row, count] = total
        for place in range(windows.indptr[user], windows.indptr[user + 1]):
            slot = slot_of[windows.items[place]]
            if 0 <= slot < epoch.num_negatives:
                plans.mask_slots[row, total] = slot
                total += 1
        count += 1
    plans.mask_indptr[row, count] = total


@njit(nogil=True, cache=True)
def _invert(slots, count, num_slots, indptr, members):
    """Write the CSR of the places below ``count`` at which each slot stands in ``slots``, ascending."""
    indptr[: num_slots + 1] = 0
    for place in range(count):
        indptr[slots[place] + 1] += 1
    for slot in range(num_slots):
        indptr[slot + 1] += indptr[slot]
    for place in range(count - 1, -1, -1):
        slot = slots[place]
        indptr[slot + 1] -= 1
        members[indptr[slot + 1]] = place
    # each end has come down to the beginning of its slot: move the bounds back by one
    for slot in range(num_slots):
        indptr[slot] = indptr[slot + 1]
    indptr[num_slots] = count
