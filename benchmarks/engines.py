"""The shipped network in other engines: pixels a second of processor time, and how far the probabilities are off.

    pip install onnx onnxruntime openvino
    python -m benchmarks.engines --threads 1

Windows of 576 px of a simulated scene. An engine that is not installed is named with the reason.
"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

SIDE = 576 # of a window, pixels

def windows(spec):
    "Four windows as the network reads them"
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.simulate import simulate_event
    from landslide_nb.learn.models import normalize_pair
    from landslide_nb.mapping.scene import stack_pair
    pair = make_pair(simulate_event('demo_a', 0, 1024, orbits='ascending'))
    x = stack_pair(pair, spec['channels']).values
    cut = [x[..., a:a+SIDE, b:b+SIDE] for a in (0, 448) for b in (0, 448)]
    return [normalize_pair(torch.from_numpy(np.ascontiguousarray(o))[None], spec['stats'], spec['change']) for o in cut]

def with_torch(net, dtype=torch.float32):
    "As `map` runs it"
    lower = dtype != torch.float32
    def logits(x):
        "Of a window"
        with torch.inference_mode(), torch.autocast('cpu', dtype, enabled=lower): return net(x)[0].float().numpy()
    return logits

def with_onnxruntime(path, threads):
    "An ONNX file in ONNX Runtime"
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    def logits(x):
        "Of a window"
        return session.run(None, dict(x=x.numpy()))[0][0]
    return logits

def with_openvino(path, threads, precision=None):
    "An ONNX file in OpenVINO"
    import openvino
    core = openvino.Core()
    settings = dict(INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT='LATENCY')
    if precision: settings['INFERENCE_PRECISION_HINT'] = precision
    model = core.read_model(path)
    request = core.compile_model(model, 'CPU', settings).create_infer_request()
    def logits(x):
        "Of a window"
        request.infer({0: x.numpy()})
        return np.array(request.get_output_tensor(0).data)[0]
    return logits

def in_int8(path, found):
    "The same network in int8, as two of the windows calibrate it"
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    class Reader(CalibrationDataReader):
        "Gives the two windows, one at a time"
        def __init__(self):
            "With both windows"
            self.left = [dict(x=x.numpy()) for x in found[:2]]

        def get_next(self):
            "A window, or None when there is none left"
            return self.left.pop() if self.left else None
    small = path.replace('.onnx', '.int8.onnx')
    quantize_static(path, small, Reader(), per_channel=True)
    return small

def measured(logits, found, truth):
    "Megapixels a second of processor time, and the largest difference of probabilities"
    from scipy.special import expit
    logits(found[0])
    start = time.process_time()
    probs = [expit(logits(x)) for x in found]
    spent = time.process_time() - start
    megapixels = len(found)*SIDE*SIDE/1e6
    return megapixels/spent, max(abs(a - b).max() for a, b in zip(probs, truth))

def write_onnx(net, window, path):
    "The network as an ONNX file"
    torch.onnx.export(net, (window,), path, dynamo=False, opset_version=17, input_names=['x'], output_names=['y'])

def engines_of(net, path, found, threads):
    "{name: function that makes an engine ready}, in the order of the table"
    return {
        'torch, float32': lambda: with_torch(net),
        'torch, bfloat16': lambda: with_torch(net, torch.bfloat16),
        'ONNX Runtime, float32': lambda: with_onnxruntime(path, threads),
        'OpenVINO, float32': lambda: with_openvino(path, threads, 'f32'),
        'OpenVINO, bfloat16': lambda: with_openvino(path, threads, 'bf16'),
        'ONNX Runtime, int8': lambda: with_onnxruntime(in_int8(path, found), threads),
        'OpenVINO, int8': lambda: with_openvino(in_int8(path, found), threads),
    }

def line_of(name, make, found, truth):
    "A line of the table: what an engine gives, or why it does not run"
    try: speed, apart = measured(make(), found, truth)
    except (ImportError, RuntimeError) as e: return f'| {name} | {type(e).__name__}: {e} | |'
    return f'| {name} | {speed:.2f} | {apart:.4f} |'

def arguments():
    "What the command line says"
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser('python -m benchmarks.engines', description=__doc__, formatter_class=how)
    p.add_argument('--threads', type=int, default=1)
    return p.parse_args()

def main():
    "Measure one engine after the other"
    threads = arguments().threads
    torch.set_num_threads(threads)
    from scipy.special import expit
    from landslide_nb.learn.models import load_model
    from landslide_nb.learn.networks import folded
    from landslide_nb.memory import kept_memory
    net, meta = load_model('base')
    net, found = folded(net), windows(meta['input'])
    plain = with_torch(net)
    truth = [expit(plain(x)) for x in found]
    with tempfile.TemporaryDirectory() as d, kept_memory():
        path = str(Path(d)/'base.onnx')
        write_onnx(net, found[0], path)
        print('| engine | Mpx a CPU s | largest difference |\n|---|---:|---:|')
        for name, make in engines_of(net, path, found, threads).items():
            print(line_of(name, make, found, truth), flush=True)

if __name__ == '__main__': main()
