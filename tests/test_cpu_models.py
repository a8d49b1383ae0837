"""Older processors: what is chosen there, and that no unit holds an instruction of another's."""

import json
import re

import pytest
from toolchain import KERNELS, ON_X86, STRICT, need, preload, run, run_python

from fastsoftmax import _backend

if not ON_X86:
    pytest.skip("these are models of x86-64", allow_module_level=True)

SLOW = pytest.mark.slow
MODELS = {
    "Haswell,-fma": ["generic"],
    "Haswell": ["avx2", "generic"],
    "Haswell,-avx2": ["generic"],
    "Haswell,-f16c": ["generic"],
    "Haswell,-xsave": ["generic"],  # the registers are not saved, whatever CPUID says of AVX
    "SandyBridge": ["generic"],
    "Nehalem": ["generic"],
}

REPORT = """
import json, numpy, fastsoftmax
from fastsoftmax import _api, _backend
config = fastsoftmax.show_config(mode="dicts")
x = numpy.ldexp(numpy.arange(-50.0, 50.0) ** 3, -12)
found = {"default": fastsoftmax.softmax(x)}
for name in config["available"]:
    found[name] = _api.over(_backend.load(name)).softmax(x)
config["results"] = {name: y.tobytes().hex() for name, y in found.items()}
config["errors"] = {name: float(abs(y - found["numpy"]).max()) for name, y in found.items()}
print(json.dumps(config))
"""


@pytest.fixture(scope="module")
def native_result():
    done = run_python("-c", REPORT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"][_backend.INSTRUCTION_SETS[0]]


@pytest.mark.parametrize(
    "model", [m if i == 0 else pytest.param(m, marks=SLOW) for i, m in enumerate(MODELS)]
)
def test_an_older_processor_gets_what_it_can_run_with_the_same_bits(model, native_result):
    need("qemu-x86_64")
    done = run_python("-c", REPORT, under=("qemu-x86_64", "-cpu", model))
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    kernels = MODELS[model]
    assert config["available"] == [*kernels, "numpy"]
    if "avx2" in kernels:
        assert config["backend"] == "avx2"
        assert config["fallback_reason"] is None
    else:
        assert config["backend"] == "numpy"
        assert "FMA" in config["fallback_reason"]
    for name in kernels:
        assert config["results"][name] == native_result, name
    assert max(config["errors"].values()) < 1e-15


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_kernels_that_the_processor_cannot_run_are_refused(name):
    need("qemu-x86_64")
    code = f"from fastsoftmax import _backend; _backend.load({name!r})"
    done = run_python("-c", code, under=("qemu-x86_64", "-cpu", "Nehalem"))
    assert done.returncode == 1
    assert f"the backend {name!r} is not available: this CPU" in done.stderr


def test_without_any_kernels_that_give_the_right_bits_numpy_stands_in(tmp_path, monkeypatch):
    need("qemu-x86_64")
    preload("round_twice.c", tmp_path, monkeypatch)
    old = {"under": ("qemu-x86_64", "-cpu", "Nehalem")}
    done = run_python("-c", REPORT, **old)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert config["available"] == ["numpy"]
    assert list(config["unavailable"]) == config["compiled"]
    assert "avx2: this CPU" in config["fallback_reason"]
    assert "generic: fma()" in config["fallback_reason"]
    for code, backend in (
        ("import fastsoftmax", "native"),
        ("from fastsoftmax._interface import capsule; capsule()", None),
    ):
        done = run_python("-c", code, backend=backend, **old)
        assert done.returncode == 1
        assert config["fallback_reason"] in done.stderr


# ---- the object code ----

BASELINE = ("arrays", "dispatch", "shared", "softmax_generic", "softmax_neon")
VECTOR = re.compile(r"%([xyz]mm\d+|k[0-7])\b")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=SLOW) for name in ("gcc", "clang")]
)
def objects(request, tmp_path_factory):
    """Compile every unit as setup.py does, but for the optimisation that takes time."""
    need(request.param, "objdump", "nm")
    folder = tmp_path_factory.mktemp(request.param)
    sources = {source.stem: source for source in KERNELS.glob("*.c")}
    for stem, source in sources.items():
        run(request.param, *STRICT, "-O1", "-c", source, "-o", folder / f"{stem}.o")
    return {stem: folder / f"{stem}.o" for stem in sources}


def instructions(path):
    """Yield the mnemonic and the operands of each instruction."""
    for line in run("objdump", "-d", "--no-show-raw-insn", path, text=True).splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            mnemonic, _, operands = parts[1].partition(" ")
            yield mnemonic, operands


def is_wide(mnemonic, operands):
    """Whether an instruction is one of AVX or of a later extension of the vectors (VEX, EVEX)."""
    return bool(re.search(r"%[yz]mm|%k[0-7]", operands)) or (
        mnemonic.startswith("v") and not mnemonic.startswith("ver")
    )


def test_a_baseline_unit_holds_no_wide_instruction(objects):
    for stem in BASELINE:
        wide = [code for code in instructions(objects[stem]) if is_wide(*code)]
        assert not wide, (stem, wide[:5])


def test_the_wide_units_hold_theirs_and_no_wider(objects):
    registers = {}
    for stem in ("softmax_avx2", "softmax_avx512"):
        operands = [code[1] for code in instructions(objects[stem])]
        registers[stem] = {register for text in operands for register in VECTOR.findall(text)}
    of_evex = re.compile(r"zmm|k\d|mm(1[6-9]|2\d|3[01])$")
    assert {"ymm0"} <= registers["softmax_avx2"]
    assert not [r for r in registers["softmax_avx2"] if of_evex.search(r)]
    assert {"zmm0"} <= registers["softmax_avx512"]


def test_a_unit_gives_the_linker_nothing_but_its_table(objects):
    """A function that two units offer would be taken from either, for both."""
    for name in ("generic", "avx2", "avx512"):
        symbols = run(
            "nm", "--defined-only", "--extern-only", objects[f"softmax_{name}"], text=True
        )
        assert [line.split()[-1] for line in symbols.splitlines()] == [f"fsm_{name}"]


def test_every_c_file_is_of_a_known_kind():
    need()
    known = {*BASELINE, "softmax_avx2", "softmax_avx512"}
    assert {source.stem for source in KERNELS.glob("*.c")} == known
