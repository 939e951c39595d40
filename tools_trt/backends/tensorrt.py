"""TensorRT 10 and 11 on the GPU: one engine, profile, context and CUDA graph per bucket.

Networks are strongly typed: precision is that of the ONNX graph's own types, in both generations,
and no precision flag is set anywhere. What came out is checked with the engine inspector, because
a builder that ignores what was asked still reports success. Written against NVIDIA's API reference
(docs.nvidia.com/deeplearning/tensorrt, Python API of 10.x and 11.x); names that the installed
version lacks are not called. Imported only when this backend is picked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tensorrt
import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.builder import EngineBuildError, PlanError, Probes
from pixelis_fast.tools_trt.backends.cuda_graph import CapturedRun
from pixelis_fast.tools_trt.backends.onnx_graphs import write_onnx
from pixelis_fast.tools_trt.backends.session import check_inputs
from pixelis_fast.tools_trt.backends.static_buffers import StaticBuffers
from pixelis_fast.tools_trt.backends.tensorrt_inspect import check_precision, precision_histogram
from pixelis_fast.tools_trt.backends.tensorrt_timing import TimingCache
from pixelis_fast.tools_trt.graphs.precision import GPU_LADDER, Precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph

if not hasattr(tensorrt, "__version__"):
    # Type stubs alone leave an empty package of that name.
    raise ImportError("tensorrt has no runtime here: it was installed for its types only")

OLDEST = 10
ENGINE_FILE, HISTOGRAM_FILE = "engine.plan", "precision.json"
WORKSPACE_BYTES = 4 << 30
"""A tool shares its GPU with the policy."""
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}


class TensorRtSession:
    """One context over fixed buffers, replayed as a CUDA graph."""

    def __init__(
        self, engine: tensorrt.ICudaEngine, graph: BucketGraph, *, name: str, device: torch.device
    ) -> None:
        self.name, self.reason, self.device = name, "asked for", device
        self.input_names = tuple(spec.name for spec in graph.inputs)
        self.metadata: dict[str, str] = {}
        _check_tensors(engine, graph)
        self._engine = engine
        self._buffers = StaticBuffers(graph, device)
        self._context = self._open_context()
        self._captured = CapturedRun(self._buffers, self._enqueue, device=device)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_inputs(self, inputs)
        return self._captured(inputs)

    def _open_context(self) -> tensorrt.IExecutionContext:
        context = self._engine.create_execution_context()
        if context is None:
            raise PlanError(f"{self.name}: expected an execution context, got none")
        for name, tensor in self._buffers.inputs.items():
            _accepted(context.set_input_shape(name, tuple(tensor.shape)), f"shape of {name}")
        for name, tensor in (self._buffers.inputs | self._buffers.results).items():
            _accepted(context.set_tensor_address(name, tensor.data_ptr()), f"address of {name}")
        return context

    def _enqueue(self, stream: int) -> None:
        _accepted(self._context.execute_async_v3(stream), "run")


class TensorRtBuilder:
    """ONNX in the asked types -> an engine for this GPU."""

    name = "tensorrt"

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def why_not(self) -> str | None:
        if generation() < OLDEST:
            return f"expected TensorRT {OLDEST} or newer, got {tensorrt.__version__}"
        return None if torch.cuda.is_available() else "expected a CUDA device, got none"

    def versions(self) -> dict[str, str]:
        return {"tensorrt": tensorrt.__version__, "workspace": str(WORKSPACE_BYTES), "tf32": "off"}

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        return GPU_LADDER if graph.onnx_path is None else ("fp16", "fp32")

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        source = folder / "graph.onnx"
        write_onnx(graph, precision, source, probes=probes)
        card = torch.cuda.get_device_properties(self.device)
        arch = f"sm_{card.major}{card.minor}"
        timing = folder.parent / f"timing-{tensorrt.__version__}-{arch}.cache"
        plan = build_engine(source, graph, timing=timing)
        source.unlink()
        (folder / ENGINE_FILE).write_bytes(plan)
        histogram = precision_histogram(_inspected(read_engine(plan)))
        check_precision(histogram, precision.rung)
        (folder / HISTOGRAM_FILE).write_text(json.dumps(histogram))

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> TensorRtSession:
        engine = read_engine((folder / ENGINE_FILE).read_bytes())
        name = f"tensorrt-{precision.rung}"
        return TensorRtSession(engine, graph, name=name, device=self.device)


def generation() -> int:
    """10 or 11."""
    return int(tensorrt.__version__.split(".")[0])


def build_engine(source: Path, graph: BucketGraph, *, timing: Path) -> bytes:
    """The serialised engine of an ONNX file."""
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(network_flags())
    _parse(network, logger, source)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    if hasattr(tensorrt.BuilderFlag, "TF32"):
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, graph))
    cache = TimingCache(timing, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{graph.name}: TensorRT built no engine; its log says why")
    cache.save()
    return bytes(plan)


def network_flags() -> int:
    """Strongly typed: a flag in generation 10; the only kind of network afterwards."""
    flags = getattr(tensorrt, "NetworkDefinitionCreationFlag", None)
    flag = getattr(flags, "STRONGLY_TYPED", None)
    if flag is not None:
        return 1 << int(flag)
    if generation() <= OLDEST:
        raise EngineBuildError(
            f"tensorrt: expected strongly typed networks, got {tensorrt.__version__} without"
        )
    return 0


def read_engine(plan: bytes) -> tensorrt.ICudaEngine:
    """PlanError where this version or this GPU cannot run it."""
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise PlanError(f"tensorrt {tensorrt.__version__}: expected an engine, got unreadable data")
    return engine


def _parse(network: tensorrt.INetworkDefinition, logger: tensorrt.Logger, source: Path) -> None:
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        errors = "; ".join(str(parser.get_error(n)) for n in range(parser.num_errors))
        raise EngineBuildError(f"tensorrt: the ONNX parser refused the graph: {errors}")


def _profile(builder: tensorrt.Builder, graph: BucketGraph) -> tensorrt.IOptimizationProfile:
    """The bucket's shapes as least, best and largest."""
    profile = builder.create_optimization_profile()
    for spec in graph.inputs:
        shape = tensorrt.Dims(list(graph.shape_of(spec)))
        profile.set_shape(spec.name, shape, shape, shape)
    return profile


def _inspected(engine: tensorrt.ICudaEngine) -> str:
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def _check_tensors(engine: tensorrt.ICudaEngine, graph: BucketGraph) -> None:
    """The engine's tensors are the spec's: an address with another type would be misread."""
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    specs = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    if set(names) != set(specs):
        raise PlanError(f"{graph.name}: expected the tensors {sorted(specs)}, got {sorted(names)}")
    for name, spec in specs.items():
        kind = engine.get_tensor_dtype(name).name
        if DTYPES.get(kind) != spec.dtype:
            raise PlanError(f"{graph.name}: expected {name} as {spec.dtype}, got {kind}")


def _accepted(answer: bool, what: str) -> None:
    if not answer:
        raise PlanError(f"tensorrt: the context refused its {what}")


BUILDER = TensorRtBuilder()
