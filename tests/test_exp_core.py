"""The float32 exp core: the bounds that core_f32.h states, on a sample of all inputs and on all."""

import concurrent.futures
import re

import pytest
from toolchain import KERNELS, ON_X86, compile_program, need, run, unit_flags

from fastsoftmax import _backend

STEP = 4093  # a prime: a million inputs, of every exponent and in every part of the significand

HERE = [pytest.param("gcc", (), name, id=name) for name in _backend.INSTRUCTION_SETS]
if ON_X86:
    HERE.append(
        pytest.param(
            "aarch64-linux-gnu-gcc",
            ("qemu-aarch64",),
            "neon",
            id="neon-emulated",
            marks=pytest.mark.slow,
        )
    )


STATED = {
    "ulp": r"at most (\S+) ulp, witness (0x[0-9a-f]{8})",
    "below": r"at most (\S+) \* 2\^-24 of itself below, witness (0x[0-9a-f]{8})",
    "above": r"and (\S+) \* 2\^-24 above, witness (0x[0-9a-f]{8})",
    "parts": r"They are within (\S+) \* 2\^-24, witness (0x[0-9a-f]{8})",
}
"""What tests/c/exhaustive_exp.c prints, and where core_f32.h states it."""


def stated_bounds():
    """Return each bound and its witness."""
    comment = re.sub(r"\n \* +", " ", (KERNELS / "core_f32.h").read_text().partition("*/")[0])
    found = {name: re.search(text, comment).groups() for name, text in STATED.items()}
    return {name: (float(bound), witness) for name, (bound, witness) in found.items()}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile the search for one instruction set; once, however many tests ask."""
    folder = tmp_path_factory.mktemp("exp")

    def built(compiler, name):
        output = folder / name
        if not output.exists():
            static = ["-static"] if compiler.startswith("aarch64") else []
            vectors = f'-DVECTORS="vec_{name}.h"'
            flags = ["-O2", *static, *unit_flags(name), vectors]
            compile_program(compiler, "exhaustive_exp.c", output, *flags)
        return output

    return built


def search(command, first, step, *bits):
    """Return the largest errors with their inputs, how many weights are wrong, the sum of bits."""
    lines = [line.split() for line in run(*command, first, step, *bits, text=True).splitlines()]
    words = {name: rest for name, *rest in lines}
    errors = {name: (float(words[name][0]), words[name][1]) for name in STATED}
    return errors, int(words["wrong"][0]), int(words["sum"][0])


@pytest.mark.parametrize(("compiler", "emulator", "name"), HERE)
def test_the_stated_bounds_hold_on_a_sample_and_their_witnesses_come_near(
    build, compiler, emulator, name
):
    need(compiler, *emulator)
    stated = stated_bounds()
    witnesses = [witness for _, witness in stated.values()]
    errors, wrong, _ = search([*emulator, build(compiler, name)], 0, STEP, *witnesses)
    assert wrong == 0
    for kind, (bound, _) in stated.items():
        assert bound - 0.005 < errors[kind][0] <= bound, kind


@pytest.mark.slow
def test_every_instruction_set_gives_the_same_weights(build):
    need("gcc")
    sums = {}
    for parameters in HERE:
        compiler, emulator, name = parameters.values
        need(compiler, *emulator)
        sums[name] = search([*emulator, build(compiler, name)], 0, STEP)[2]
    assert len(set(sums.values())) == 1, sums


@pytest.mark.slow
def test_the_stated_bounds_hold_on_all_inputs_and_are_met_at_their_witnesses(build):
    need("gcc")
    program = build("gcc", _backend.INSTRUCTION_SETS[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda first: search([program], first, 2), (0, 1)))
    assert sum(wrong for _, wrong, _ in parts) == 0
    for kind, (bound, witness) in stated_bounds().items():
        error, at = max(errors[kind] for errors, _, _ in parts)
        assert error <= bound, kind
        assert at == witness, kind
