"""bare_inference.py MODEL.onnx WIDTH HEIGHT [RUNS]: median milliseconds of one inference, nothing around it.

One thread, no spinning, random input. Free dimensions become HEIGHT and WIDTH; so do the dimensions of CenterFace, which
is shipped with ones its authors never meant.
"""
import sys
import time

import numpy
import onnx
import onnxruntime

path, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
runs = int(sys.argv[4]) if len(sys.argv) > 4 else 50

model = onnx.load(path)
weights = {each.name for each in model.graph.initializer}
inputs = [each for each in model.graph.input if each.name not in weights]
if [size.dim_value for size in inputs[0].type.tensor_type.shape.dim] == [10, 3, 32, 32]:
    for size, value in zip(inputs[0].type.tensor_type.shape.dim, [1, 3, height, width]):
        size.dim_value = value
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    del model.graph.input[:]
    model.graph.input.extend(inputs)

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
feed = {}
for each in session.get_inputs():
    wanted = [1, 3, height, width]
    shape = [size if isinstance(size, int) and size > 0 else wanted[at] for at, size in enumerate(each.shape)]
    feed[each.name] = numpy.random.default_rng(1).random(shape, dtype=numpy.float32) * 255
times = []
for _ in range(runs + 5):
    start = time.perf_counter()
    session.run(None, feed)
    times.append((time.perf_counter() - start) * 1e3)
print(round(sorted(times[5:])[runs // 2], 3))
