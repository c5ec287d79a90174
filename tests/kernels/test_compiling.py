from numba import njit

from fastncf.kernels.cpu.compiling import when_compiling


def test_a_compilation_is_told_once_and_a_compiled_kernel_not():
    told = []

    @njit
    def double(x):
        return 2 * x

    with when_compiling(lambda: told.append("now")):
        assert told == []
        assert double(1) + double(1.5) == 5
        assert told == ["now"]
    with when_compiling(lambda: told.append("again")):
        double(3)
    assert told == ["now"]
