"""The shipped network in other engines: pixels a second of processor time, and how far the probabilities are off.

    pip install onnx onnxruntime openvino
    python -m benchmarks.engines --threads 1

Windows of 576 px of a simulated scene. An engine that is not installed is named with the reason.
"""
import argparse, tempfile, time
from pathlib import Path

import numpy as np, torch

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
    def logits(x):
        with torch.inference_mode(), torch.autocast('cpu', dtype, enabled=dtype != torch.float32): return net(x)[0].float().numpy()
    return logits

def with_onnxruntime(path, threads):
    "An ONNX file in ONNX Runtime"
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda x: session.run(None, dict(x=x.numpy()))[0][0]

def with_openvino(path, threads, precision=None):
    "An ONNX file in OpenVINO"
    import openvino
    core = openvino.Core()
    hint = dict(INFERENCE_PRECISION_HINT=precision) if precision else {}
    model = core.read_model(path)
    request = core.compile_model(model, 'CPU', dict(INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT='LATENCY', **hint)).create_infer_request()
    def logits(x):
        request.infer({0: x.numpy()})
        return np.array(request.get_output_tensor(0).data)[0]
    return logits

def in_int8(path, found):
    "The same network in int8, as two of the windows calibrate it"
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    class Reader(CalibrationDataReader):
        def __init__(self): self.left = [dict(x=x.numpy()) for x in found[:2]]
        def get_next(self): return self.left.pop() if self.left else None
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
    return len(found)*SIDE*SIDE/1e6/spent, max(abs(a - b).max() for a, b in zip(probs, truth))

def main():
    p = argparse.ArgumentParser('python -m benchmarks.engines', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1)
    threads = p.parse_args().threads
    torch.set_num_threads(threads)
    from scipy.special import expit
    from landslide_nb.learn.models import load_model
    from landslide_nb.learn.networks import folded
    from landslide_nb.memory import kept_memory
    net, meta = load_model('base')
    net = folded(net)
    found = windows(meta['input'])
    plain = with_torch(net)
    truth = [expit(plain(x)) for x in found]
    with tempfile.TemporaryDirectory() as d, kept_memory():
        path = str(Path(d)/'base.onnx')
        torch.onnx.export(net, (found[0],), path, dynamo=False, opset_version=17, input_names=['x'], output_names=['y'])
        engines = {
            'torch, float32': lambda: plain,
            'torch, bfloat16': lambda: with_torch(net, torch.bfloat16),
            'ONNX Runtime, float32': lambda: with_onnxruntime(path, threads),
            'OpenVINO, float32': lambda: with_openvino(path, threads, 'f32'),
            'OpenVINO, bfloat16': lambda: with_openvino(path, threads, 'bf16'),
            'ONNX Runtime, int8': lambda: with_onnxruntime(in_int8(path, found), threads),
            'OpenVINO, int8': lambda: with_openvino(in_int8(path, found), threads),
        }
        print('| engine | Mpx a CPU s | largest difference |\n|---|---:|---:|')
        for name, make in engines.items():
            try: print('| {} | {:.2f} | {:.4f} |'.format(name, *measured(make(), found, truth)), flush=True)
            except (ImportError, RuntimeError) as e: print(f'| {name} | {type(e).__name__}: {e} | |', flush=True)

if __name__ == '__main__': main()
