"""A small true thing under TensorRT's names, in the shape of generation 10 or 11.

An "engine" is the ONNX file it was parsed from; running it means running that file with ONNX
Runtime on the memory at the addresses that were set. Names that a generation lacks are not there,
so calling one fails. `ignores_types` builds engines in fp32 whatever the graph says.
"""

import ctypes
import enum
import importlib.machinery
import json
import types
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ONNX_TO_NAME = {1: "FLOAT", 10: "HALF", 16: "BF16", 7: "INT64", 6: "INT32", 9: "BOOL"}
DESCRIBED = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT64": "Int64", "BOOL": "Bool"}
DETAILED = {10: "Row major linear {}", 11: "{}"}
"""How the inspector words a data type; both forms are found in the field."""
HEADER = b"fake device;"


class RefusedError(AssertionError):
    """What TensorRT would have answered with an error or a crash."""


def make(generation, *, ignores_types=False):
    """The module, and the log of what was asked of it."""
    log = types.SimpleNamespace(workspace=None, profiles=[], cleared=[], caches=[], contexts=0)
    data_types = enum.Enum("DataType", list(ONNX_TO_NAME.values()))
    module = types.ModuleType("tensorrt")
    # torch asks which packages are there when it first compiles something.
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", loader=None)
    module.__version__ = {10: "10.13.0.35", 11: "11.4.0.106"}[generation]

    class Logger:
        WARNING = 2

        def __init__(self, severity):
            pass

    class Dims(tuple):
        def __new__(cls, shape):
            return super().__new__(cls, shape)

    class Network:
        data = None

    class OnnxParser:
        def __init__(self, network, logger):
            self.network, self.num_errors = network, 0

        def parse_from_file(self, path):
            self.network.data = Path(path).read_bytes()
            try:
                onnx.load_model_from_string(self.network.data)
            except Exception:
                self.num_errors = 1
                return False
            return True

        def get_error(self, number):
            return "not an ONNX graph"

    class Profile:
        def __init__(self):
            self.shapes = {}

        def set_shape(self, name, least, best, most):
            if not all(isinstance(shape, Dims) for shape in (least, best, most)):
                raise RefusedError("set_shape takes Dims")
            self.shapes[name] = (tuple(least), tuple(best), tuple(most))

    class Cache:
        def __init__(self, data):
            self.entries = set(data.removeprefix(HEADER).split(b",")) - {b""}
            self.fits = not data or data.startswith(HEADER)

        def combine(self, other, *, ignore_mismatch):
            assert not ignore_mismatch
            self.entries |= other.entries if other.fits else set()
            return other.fits

        def serialize(self):
            return HEADER + b",".join(sorted(self.entries))

    class Config:
        profiling_verbosity = None

        def set_memory_pool_limit(self, pool, size):
            log.workspace = (pool, size)

        def clear_flag(self, flag):
            log.cleared.append(flag)

        def add_optimization_profile(self, profile):
            log.profiles.append(profile.shapes)
            return 0

        def create_timing_cache(self, data):
            return Cache(data)

        def set_timing_cache(self, cache, *, ignore_mismatch):
            assert not ignore_mismatch
            if cache.fits:
                self.cache = cache
            return cache.fits

        def get_timing_cache(self):
            return self.cache

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, flags=0):
            if generation == 10 and not flags & 1 << 1:
                raise RefusedError("a weakly typed network computes in fp32 without flags")
            if generation == 11 and flags:
                raise RefusedError("generation 11 knows no such flag")
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            model = onnx.load_model_from_string(network.data)
            if model.graph.name == "unbuildable":
                return None
            log.caches.append(set(config.cache.entries))
            config.cache.entries.add(f"{len(model.graph.node)} nodes".encode())
            return memoryview(b"engine" + network.data)

    class Context:
        def __init__(self, engine):
            self.engine, self.addresses, self.shapes = engine, {}, {}
            log.contexts += 1

        def set_input_shape(self, name, shape):
            expected = self.engine.shapes[name]
            self.shapes[name] = tuple(shape)
            return tuple(shape) == expected

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return name in self.engine.shapes

        def execute_async_v3(self, stream_handle):
            given = {n: self.array(n).copy() for n in self.engine.inputs}
            outputs = self.engine.session.run(list(self.engine.outputs), given)
            for name, output in zip(self.engine.outputs, outputs, strict=True):
                self.array(name)[...] = output
            return True

        def array(self, name):
            shape, kind = self.engine.shapes[name], self.engine.types[name]
            data_type = {"FLOAT": np.float32, "INT64": np.int64, "BOOL": np.bool_}[kind]
            size = int(np.prod(shape)) * np.dtype(data_type).itemsize
            memory = (ctypes.c_byte * size).from_address(self.addresses[name])
            return np.frombuffer(memory, data_type).reshape(shape)

    class Inspector:
        def __init__(self, engine):
            self.engine = engine

        def get_engine_information(self, layout):
            inferred = onnx.shape_inference.infer_shapes(self.engine.model)
            layers = [
                {"Name": value.name, "Outputs": [self.output(value)]}
                for value in (*inferred.graph.value_info, *inferred.graph.output)
            ]
            return json.dumps({"Layers": layers})

        def output(self, value):
            kind = DESCRIBED[ONNX_TO_NAME[value.type.tensor_type.elem_type]]
            if ignores_types and kind in ("FP16", "BF16"):
                kind = "FP32"
            name = {10: "Format/Datatype", 11: "Datatype"}[generation]
            return {"Name": value.name, name: DETAILED[generation].format(kind)}

    class Engine:
        def __init__(self, data):
            self.model = onnx.load_model_from_string(data)
            self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            graph = self.model.graph
            self.inputs = [value.name for value in graph.input]
            self.outputs = [value.name for value in graph.output]
            values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
            self.types = {name: ONNX_TO_NAME[value.elem_type] for name, value in values.items()}
            self.shapes = {
                name: tuple(dim.dim_value for dim in value.shape.dim)
                for name, value in values.items()
            }
            self.num_io_tensors = len(values)

        def get_tensor_name(self, number):
            return [*self.inputs, *self.outputs][number]

        def get_tensor_dtype(self, name):
            return data_types[self.types[name]]

        def create_execution_context(self):
            return Context(self)

        def create_engine_inspector(self):
            return Inspector(self)

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            return Engine(plan.removeprefix(b"engine")) if plan.startswith(b"engine") else None

    for part in (Logger, Dims, OnnxParser, Builder, Runtime):
        setattr(module, part.__name__, part)
    module.DataType = data_types
    module.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    module.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED"])
    module.LayerInformationFormat = enum.Enum("LayerInformationFormat", ["JSON"])
    flags = {10: ["FP16", "BF16", "TF32"], 11: ["TF32"]}[generation]
    module.BuilderFlag = enum.Enum("BuilderFlag", flags)
    if generation == 10:
        names = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        module.NetworkDefinitionCreationFlag = enum.IntEnum("CreationFlag", names)
    return module, log
