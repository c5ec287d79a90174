"""The loops of the NCF notebook, kept literal and slow, to compare the results and the time of fastncf with.

Negatives are drawn one at a time with ``choice`` and a set of pairs, a ``DataLoader`` makes batches of 512 rows of a
``Dataset``, and the evaluation calls the model user by user. Only the framework around the training loop (Lightning) is
left out.

    python -m benchmarks.naive u.data --seeds 3
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Triple = tuple[int, int, int]


class Ratings:
    """The data frames of the notebook, ``ratings``, ``train`` and ``test``, with raw ids."""

    def __init__(self, ratings: pd.DataFrame, fraction: float, random: np.random.RandomState) -> None:
        users = ratings["userId"].unique()
        kept = random.choice(users, size=int(len(users) * fraction), replace=False)
        self.ratings = ratings.loc[ratings["userId"].isin(kept)].copy()
        self.ratings["rank_latest"] = self.ratings.groupby(["userId"])["timestamp"].rank(
            method="first", ascending=False
        )
        self.train = self.ratings[self.ratings["rank_latest"] != 1]
        self.test = self.ratings[self.ratings["rank_latest"] == 1]
        self.all_items = self.ratings["movieId"].unique()
        self.num_users = int(self.ratings["userId"].max()) + 1
        self.num_items = int(self.ratings["movieId"].max()) + 1


def read(path: Path) -> pd.DataFrame:
    """Read ``u.data``, or a CSV with the columns userId, movieId, rating and timestamp."""
    columns = ["userId", "movieId", "rating", "timestamp"]
    if path.suffix == ".csv":
        return pd.read_csv(path, parse_dates=["timestamp"])[columns]
    return pd.read_csv(path, sep="\t", names=columns)


def sample(
    train: pd.DataFrame, all_items: np.ndarray, num_negatives: int, random: np.random.RandomState
) -> list[Triple]:
    """Return the (user, item, label) of an epoch: each positive, then its negatives."""
    triples = []
    pairs = set(zip(train["userId"], train["movieId"], strict=True))
    for user, item in pairs:
        triples.append((user, item, 1))
        for _ in range(num_negatives):
            negative = random.choice(all_items)
            while (user, negative) in pairs:
                negative = random.choice(all_items)
            triples.append((user, negative, 0))
    return triples


class Rows(Dataset):
    """A data set that returns one row at a time."""

    def __init__(self, triples: list[Triple]) -> None:
        self.users, self.items, self.labels = (torch.tensor(column) for column in zip(*triples, strict=True))

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.users[row], self.items[row], self.labels[row]


class NCF(nn.Module):
    """The notebook's model: embeddings of 8 dimensions, layers of 64 and 32, a sigmoid."""

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(num_users, 8)
        self.item_embedding = nn.Embedding(num_items, 8)
        self.fc1 = nn.Linear(16, 64)
        self.fc2 = nn.Linear(64, 32)
        self.output = nn.Linear(32, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the probabilities (n, 1) of pairs."""
        vector = torch.cat([self.user_embedding(users), self.item_embedding(items)], dim=-1)
        vector = nn.ReLU()(self.fc1(vector))
        vector = nn.ReLU()(self.fc2(vector))
        return nn.Sigmoid()(self.output(vector))


def train(data: Ratings, epochs: int, random: np.random.RandomState) -> tuple[NCF, dict[str, float]]:
    """Return the trained model, and the seconds of sampling and of training."""
    model = NCF(data.num_users, data.num_items)
    optimizer = torch.optim.Adam(model.parameters())
    seconds = {"sample": 0.0, "train": 0.0}
    for _ in range(epochs):
        start = time.perf_counter()
        rows = Rows(sample(data.train, data.all_items, 4, random))
        seconds["sample"] += time.perf_counter() - start
        start = time.perf_counter()
        pass_over(model, optimizer, rows)
        seconds["train"] += time.perf_counter() - start
    return model, seconds


def pass_over(model: NCF, optimizer: torch.optim.Optimizer, rows: Rows) -> float:
    """Train one epoch with 512 rows per step; return the loss of the last step."""
    for users, items, labels in DataLoader(rows, batch_size=512):
        loss = nn.BCELoss()(model(users, items), labels.view(-1, 1).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def candidates(data: Ratings, random: np.random.RandomState) -> dict[tuple[int, int], list[int]]:
    """Draw, for each (user, test item), 99 items with replacement that the user has not seen."""
    seen = data.ratings.groupby("userId")["movieId"].apply(list).to_dict()
    return draw(set(zip(data.test["userId"], data.test["movieId"], strict=True)), seen, data.all_items, random)


def draw(
    pairs: Iterable[tuple[int, int]],
    seen: dict[int, list[int]],
    all_items: np.ndarray,
    random: np.random.RandomState,
) -> dict[tuple[int, int], list[int]]:
    """Draw the lists of some pairs (user, test item)."""
    lists = {}
    for user, item in pairs:
        unseen = set(all_items) - set(seen[user])
        lists[user, item] = list(random.choice(list(unseen), 99))
    return lists


def hits(model: nn.Module, lists: dict[tuple[int, int], list[int]]) -> list[int]:
    """Return for each test item whether it is among the best 10 of its list; the model is called user by user."""
    found = []
    for (user, item), negatives in lists.items():
        items = [*negatives, item]
        scores = np.squeeze(model(torch.tensor([user] * len(items)), torch.tensor(items)).detach().numpy())
        top = [items[at] for at in np.argsort(scores)[::-1][0:10].tolist()]
        found.append(int(item in top))
    return found


def run(ratings: pd.DataFrame, *, fraction: float, epochs: int, seed: int) -> tuple[float, dict[str, float]]:
    """Return HR@10 of the whole notebook, and its seconds by stage."""
    random = np.random.RandomState(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        data = Ratings(ratings, fraction, random)
        model, seconds = train(data, epochs, random)
    start = time.perf_counter()
    hit_ratio = float(np.mean(hits(model, candidates(data, random))))
    return hit_ratio, {**seconds, "evaluate": time.perf_counter() - start}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Run the notebook's loops and fastncf's notebook recipe on the same data."
    )
    parser.add_argument("ratings", type=Path, help="u.data, or a CSV as MovieLens-20M has it")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the users")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    import fastncf

    frame = read(options.ratings)
    rows = []
    for seed in range(options.seeds):
        hit_ratio, seconds = run(frame, fraction=options.fraction, epochs=5, seed=seed)
        ours = fastncf.fit(
            frame, config=fastncf.Config.notebook(seed=seed, user_fraction=options.fraction, device="cpu")
        )
        rows.append(
            {
                "seed": seed,
                "naive hr@10": hit_ratio,
                "fastncf hr@10": ours.metrics["hr@10"],
                "naive seconds": sum(seconds.values()),
                "fastncf seconds": ours.seconds["total"],
            }
        )
        print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "seed"}
    print(json.dumps({"benchmark": "notebook", "ratings": options.ratings.name, "seeds": options.seeds, **means}))


if __name__ == "__main__":
    main()
