"""The float32 exp core: the bound that core_f32.h states, on a sample of all inputs and on all."""

import concurrent.futures
import re

import pytest
from toolchain import KERNELS, ON_X86, compile_program, need, run, unit_flags

from fastsoftmax import _backend

STEP = 4093  # a prime: a million inputs, of every exponent and in every part of the significand

HERE = [pytest.param("gcc", (), name, id=name) for name in _backend.INSTRUCTION_SETS]
if ON_X86:
    HERE.append(
        pytest.param("aarch64-linux-gnu-gcc", ("qemu-aarch64",), "neon", id="neon-emulated")
    )


def stated_bound():
    comment = (KERNELS / "core_f32.h").read_text()
    bound, witness = re.search(
        r"at most (\S+) ulp .*? witness (0x[0-9a-f]{8})", comment, re.DOTALL
    ).groups()
    return float(bound), witness


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
    """Return the largest error in ulp, its input, how many weights are wrong, the sum of bits."""
    words = run(*command, first, step, *bits, text=True).split()
    return float(words[1]), words[2], int(words[4]), int(words[6])


@pytest.mark.parametrize(("compiler", "emulator", "name"), HERE)
def test_the_stated_bound_holds_on_a_sample_and_its_witness_comes_near(
    build, compiler, emulator, name
):
    need(compiler, *emulator)
    bound, witness = stated_bound()
    error, _, wrong, _ = search([*emulator, build(compiler, name)], 0, STEP, witness)
    assert wrong == 0
    assert bound - 0.005 < error <= bound


def test_every_instruction_set_gives_the_same_weights(build):
    need("gcc")
    sums = {}
    for parameters in HERE:
        compiler, emulator, name = parameters.values
        need(compiler, *emulator)
        sums[name] = search([*emulator, build(compiler, name)], 0, STEP)[3]
    assert len(set(sums.values())) == 1, sums


@pytest.mark.slow
def test_the_stated_bound_holds_on_all_inputs_and_is_met_at_its_witness(build):
    need("gcc")
    bound, witness = stated_bound()
    program = build("gcc", _backend.INSTRUCTION_SETS[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda first: search([program], first, 2), (0, 1)))
    error, at, _, _ = max(parts)
    assert sum(part[2] for part in parts) == 0
    assert error <= bound
    assert at == witness
