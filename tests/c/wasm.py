"""Runs a WebAssembly program on standard input and output: wasm.py FILE ARGUMENT ..."""

import sys

import wasmtime

settings = wasmtime.WasiConfig()
settings.argv = sys.argv[1:]
settings.inherit_stdin()
settings.inherit_stdout()
settings.inherit_stderr()
store = wasmtime.Store()
store.set_wasi(settings)
linker = wasmtime.Linker(store.engine)
linker.define_wasi()
program = linker.instantiate(store, wasmtime.Module.from_file(store.engine, sys.argv[1]))
try:
    program.exports(store)["_start"](store)
except wasmtime.ExitTrap as end:
    sys.exit(end.code)
