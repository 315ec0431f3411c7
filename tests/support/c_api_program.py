"""Runs a SavedModel through TensorFlow's C API, as a program in C would.

    python c_api_program.py FOLDER NAMES RESULTS.npz INPUT.npy|IMAGE...

NAMES, as JSON, tells the tensors of a signature, as `saved_model_cli show` prints
them: {"input": "name:0", "outputs": {"key": "name:0", ...}}. The input gets the
array, or the bytes of each image. Of TensorFlow there are only the shared
libraries that its wheel brings: neither its Python package nor Keras.
"""

import ctypes
import importlib.metadata
import json
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np

STRING = 7  # Of TF_DataType, in c/tf_datatype.h, as the keys below.
DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}

STRING_SIZE = 24  # sizeof(TF_TString)


class Output(ctypes.Structure):
    """TF_Output: a tensor, by the operation that gives it."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


# Result and arguments of each function that is called, as declared in c/c_api.h,
# c/tf_buffer.h, c/tf_status.h, c/tf_tensor.h and c/tf_tstring.h.
FUNCTIONS = {
    "TF_AllocateTensor": (c_void_p, c_int, POINTER(c_int64), c_int, c_size_t),
    "TF_Dim": (c_int64, c_void_p, c_int),
    "TF_GetCode": (c_int, c_void_p),
    "TF_GraphOperationByName": (c_void_p, c_void_p, c_char_p),
    "TF_LoadSessionFromSavedModel": (
        *(c_void_p, c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int),
        *(c_void_p, c_void_p, c_void_p),
    ),
    "TF_Message": (c_char_p, c_void_p),
    "TF_NewGraph": (c_void_p,),
    "TF_NewSessionOptions": (c_void_p,),
    "TF_NewStatus": (c_void_p,),
    "TF_NumDims": (c_int, c_void_p),
    "TF_SessionRun": (
        *(None, c_void_p, c_void_p, POINTER(Output), POINTER(c_void_p), c_int),
        *(POINTER(Output), POINTER(c_void_p), c_int),
        *(c_void_p, c_int, c_void_p, c_void_p),
    ),
    "TF_StringCopy": (None, c_void_p, c_char_p, c_size_t),
    "TF_StringGetDataPointer": (c_void_p, c_void_p),
    "TF_StringGetSize": (c_size_t, c_void_p),
    "TF_StringInit": (None, c_void_p),
    "TF_TensorByteSize": (c_size_t, c_void_p),
    "TF_TensorData": (c_void_p, c_void_p),
    "TF_TensorType": (c_int, c_void_p),
}


def load_library():
    """The C API, of the library named and of one that it loads itself."""
    packages = ("tensorflow", "tensorflow-cpu")
    (path, *_) = (
        found.locate_file("tensorflow/libtensorflow_cc.so.2")
        for name in packages
        for found in importlib.metadata.distributions(name=name)
    )
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


tf = load_library()


def checked(function, *arguments):
    """The result of a function whose last argument is a status."""
    status = tf.TF_NewStatus()
    result = function(*arguments, status)
    if tf.TF_GetCode(status) != 0:
        raise RuntimeError(tf.TF_Message(status).decode())
    return result


def load_session(folder, graph):
    """A session of a SavedModel, whose operations are then in the graph."""
    tags = (c_char_p * 1)(b"serve")
    return checked(
        tf.TF_LoadSessionFromSavedModel,
        *(tf.TF_NewSessionOptions(), None, folder.encode(), tags, len(tags)),
        *(graph, None),
    )


def allocate(dtype, shape, size):
    sizes = (c_int64 * len(shape))(*shape)
    return tf.TF_AllocateTensor(dtype, sizes, len(shape), size)


def array_tensor(array):
    array = np.ascontiguousarray(array)
    (dtype,) = (number for number, dtype in DTYPES.items() if dtype == array.dtype)
    tensor = allocate(dtype, array.shape, array.nbytes)
    ctypes.memmove(tf.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def string_tensor(strings):
    tensor = allocate(STRING, (len(strings),), len(strings) * STRING_SIZE)
    start = tf.TF_TensorData(tensor)
    for index, string in enumerate(strings):
        tf.TF_StringInit(start + index * STRING_SIZE)
        tf.TF_StringCopy(start + index * STRING_SIZE, string, len(string))
    return tensor


def array_of(tensor):
    """The values of a tensor; strings are those of Python, in UTF-8."""
    dtype, start = tf.TF_TensorType(tensor), tf.TF_TensorData(tensor)
    shape = [tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))]
    if dtype != STRING:
        content = ctypes.string_at(start, tf.TF_TensorByteSize(tensor))
        return np.frombuffer(content, DTYPES[dtype]).reshape(shape)
    places = range(start, start + int(np.prod(shape)) * STRING_SIZE, STRING_SIZE)
    strings = [
        ctypes.string_at(tf.TF_StringGetDataPointer(place), tf.TF_StringGetSize(place))
        for place in places
    ]
    return np.array([string.decode() for string in strings]).reshape(shape)


def tensors_named(graph, names):
    """The `TF_Output`s of tensors, each named by its operation and its number."""
    outputs = (Output * len(names))()
    for output, name in zip(outputs, names, strict=True):
        operation, index = name.split(":")
        output.operation = tf.TF_GraphOperationByName(graph, operation.encode())
        output.index = int(index)
        if not output.operation:
            raise KeyError(name)
    return outputs


def main(folder, names, results, *inputs):
    names, graph = json.loads(names), tf.TF_NewGraph()
    session = load_session(folder, graph)
    tensor = (
        array_tensor(np.load(inputs[0]))
        if inputs[0].endswith(".npy")
        else string_tensor([Path(path).read_bytes() for path in inputs])
    )
    keys = list(names["outputs"])
    found = (c_void_p * len(keys))()
    checked(
        tf.TF_SessionRun,
        *(session, None),
        *(tensors_named(graph, [names["input"]]), (c_void_p * 1)(tensor), 1),
        *(tensors_named(graph, names["outputs"].values()), found, len(keys)),
        *(None, 0, None),
    )
    np.savez(results, **dict(zip(keys, map(array_of, found), strict=True)))
    if loaded := {"tensorflow", "keras", "resnext_keras"} & set(sys.modules):
        raise RuntimeError(f"Expected only the C API. Received: {loaded}")


main(*sys.argv[1:])
