from numba import njit

from fastncf.kernels.cpu.compiling import when_compiling


def test_callback_is_called_once_and_not_for_compiled_kernels():
    calls = []

    @njit
    def double(x):
        return 2 * x

    with when_compiling(lambda: calls.append("first")):
        assert calls == []
        assert double(1) + double(1.5) == 5
        assert calls == ["first"]
    with when_compiling(lambda: calls.append("second")):
        double(3)
    assert calls == ["first"]
