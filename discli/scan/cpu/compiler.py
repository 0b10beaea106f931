"""How numba compiles the kernels: every function once, all into one module, with the passes that they need.

Left to itself numba optimises each function, makes machine code of it, links a copy of it into whatever
calls it and optimises that anew: two thirds of the time that compiling took. Pipelines of one's own are
documented (numba.readthedocs.io, "Customizing the Compiler").
"""

from typing import Any, TypeVar

from numba import cfunc, njit
from numba.core import typed_passes, untyped_passes
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass

from discli.runtime.console import stderr

_Function = TypeVar("_Function")
_functions: list[Any] = []
_kernels: set[object] = set()
_libraries: list[Any] = []  # of the entry point that is being compiled: numba's name for a module


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerIntoOneModule(typed_passes.NativeLowering):  # type: ignore[misc]
    _name = "discli_lower_into_one_module"

    def run_pass(self, state: Any) -> bool:
        if not _libraries:
            _libraries.append(state.targetctx.codegen().create_library("discli.scan.cpu"))
            _libraries[0].enable_object_caching()
        state.library = _libraries[0]
        state.flags.no_compile = True
        super().run_pass(state)
        if state.func_id.func in _kernels:
            lowered = state.library._final_module.get_function(state.cr.fndesc.llvm_func_name)
            lowered.add_function_attribute("noinline")
        key: Any = [].copy  # numba tells functions apart by something built in; nobody calls it
        state.targetctx.insert_user_function(key, state.cr.fndesc)
        state.cr = state.cr._replace(cfunc=key)
        return True


class _Pipeline(CompilerBase):  # type: ignore[misc]
    """numba's usual one without what closures, arrays, exceptions and generators would need."""

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("discli")
        for step in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.InlineOverloads,
            typed_passes.IRLegalization,
            typed_passes.AnnotateTypes,
            _LowerIntoOneModule,
            typed_passes.NoPythonBackend,
        ):
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


class _AnnouncedPipeline(_Pipeline):
    """Of an entry point, which is only run when there is nothing in the cache."""

    def define_pipelines(self) -> list[PassManager]:
        stderr.print("Compiling the scan for this processor, once: some seconds ...")
        return super().define_pipelines()


def jit(function: _Function) -> Any:
    """What kernels call. LLVM may inline it."""
    compiled = njit(error_model="numpy", pipeline_class=_Pipeline, no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )
    _functions.append(compiled)
    return compiled


def kernel(function: _Function) -> Any:
    """As `jit`, but it exists once, however many call it: one that runs long, and is long to compile."""
    _kernels.add(function)
    return jit(function)


def entry(signature: Any, *, quietly: bool = False, cache: bool = False) -> Any:
    """What Python calls, by its ``address`` or as ``ctypes``; compiles now, or takes it from the cache.

    The cache is a folder beside the sources or the user's; where neither can be written, or it is damaged, there is
    none.
    """

    def compile_or_load(function: Any) -> Any:
        _libraries.clear()
        for each in _functions:
            each._reset_overloads()
        options = {"error_model": "numpy", "pipeline_class": _Pipeline if quietly else _AnnouncedPipeline}
        try:
            return cfunc(signature, cache=cache, **options)(function)
        except Exception:  # no folder for it, no room, or a file in it cut short: EOFError, UnpicklingError, ...
            if not cache:
                raise
            return cfunc(signature, **options)(function)

    return compile_or_load
