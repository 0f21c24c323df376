"""bare_inference.py MODEL.onnx WIDTH HEIGHT [RUNS]: median milliseconds of one inference, nothing around it.

One thread, no spinning, random input; free dimensions become HEIGHT and WIDTH.
"""
import sys
import time

import numpy
import onnxruntime

model, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
runs = int(sys.argv[4]) if len(sys.argv) > 4 else 50
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
inputs = {}
for each in session.get_inputs():
    wanted = [1, 3, height, width]
    shape = [size if isinstance(size, int) and size > 0 else wanted[at] for at, size in enumerate(each.shape)]
    inputs[each.name] = numpy.random.default_rng(1).random(shape, dtype=numpy.float32) * 255
times = []
for _ in range(runs + 5):
    start = time.perf_counter()
    session.run(None, inputs)
    times.append((time.perf_counter() - start) * 1e3)
print(round(sorted(times[5:])[runs // 2], 3))
