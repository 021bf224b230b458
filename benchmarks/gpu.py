"""What a graphics card does with the network: training steps, whole scenes, memory, and whether its map is the processor's.

    python -m benchmarks.gpu --out gpu.md     on a card: at most eight minutes
    python -m benchmarks.gpu --quick          small sizes, to see that it works

Needs torch and this package, and no network. Without a card everything is measured on the processor, and the page says so.
A part that finds no time or no memory is named as not measured.
"""
import argparse
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
NEAR = .01 # how far a map may be from the processor's, in probability

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    batches:tuple  # chips of 128 px a training step
    windows:tuple  # what goes through the network at once, pixels a side
    scene:int      # side of the scene that is mapped, pixels
    event:int      # side of the simulated event whose two maps are compared, pixels
    seconds:float  # for each number that repeats

CARD = Sizes((16, 64, 256), (512, 1024, 2048), 4096, 2048, 4.)
PROCESSOR = Sizes((16,), (256, 512), 1024, 512, 2.)
QUICK = Sizes((2,), (128,), 256, 256, .1)

@dataclass(frozen=True)
class Numbers:
    "What a network computes in"
    name:str
    low:torch.dtype|None=None # of autocast; None: float32 throughout
    tf32:bool=False           # may a card round float32 to 10 bits in convolutions and matrices?

    @contextmanager
    def rounding(self):
        "While float32 is rounded, or not, as these numbers ask for; of the whole process"
        owners = torch.backends.cudnn, torch.backends.cuda.matmul
        before = [owner.allow_tf32 for owner in owners]
        for owner in owners: owner.allow_tf32 = self.tf32
        try: yield
        finally:
            for owner, allowed in zip(owners, before): owner.allow_tf32 = allowed

    def autocast(self, device):
        "While a network computes in these numbers"
        return torch.autocast(device.type, self.low) if self.low else nullcontext()

def numbers_of(device):
    "What a device computes in: float32, on a card also TF32 (torch's default in convolutions), and bfloat16 where it does that itself"
    from landslide_nb.learn.models import fast_dtype
    found = [Numbers('float32')]
    if device.type == 'cuda': found.append(Numbers('float32 as TF32', tf32=True))
    low = fast_dtype(device)
    if low: found.append(Numbers(str(low).removeprefix('torch.'), low))
    return found

class Clock:
    "The time that is left"
    def __init__(self, seconds):
        "Start it"
        self.end = time.monotonic() + seconds

    def left(self):
        "Seconds that are left; below 0 when it is over"
        return self.end - time.monotonic()

def wait_for(device):
    "Until the card has done what it was asked for"
    if device.type == 'cuda': torch.cuda.synchronize(device)

def seconds_of(work, device, seconds, warm=2, least=3):
    "Seconds that a piece of work takes: the median over as many times as fit, after some that do not count"
    for _ in range(warm): work()
    wait_for(device)
    found, end = [], time.monotonic() + seconds
    while len(found) < least or time.monotonic() < end:
        begun = time.perf_counter()
        work()
        wait_for(device)
        found.append(time.perf_counter() - begun)
    return median(found)

def start_memory(device):
    "Forget the highest memory of before"
    if device.type != 'cuda': return
    torch.cuda.init()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)

def memory_mb(device):
    "The most memory of the card that was in use since `start_memory`; None on a processor"
    return torch.cuda.max_memory_allocated(device)/1e6 if device.type == 'cuda' else None

def training_step(net, batch, device, numbers):
    "A function that makes one step as the package trains: loss in float32, AdamW"
    from landslide_nb.learn.losses import BCEDice
    net = net.to(device).train()
    x = torch.randn(batch, 3, 2, 128, 128, device=device)
    y = (torch.rand(batch, 128, 128, device=device) < .02).to(torch.uint8)
    loss, optimizer = BCEDice(), torch.optim.AdamW(net.parameters(), 1e-3)
    def step():
        "Forward, loss, backward, AdamW"
        with numbers.autocast(device): logits = net(x)
        loss(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return step

def new_network(stage=2):
    "The default network with random weights"
    from landslide_nb.learn.networks import build_model
    torch.manual_seed(1)
    return build_model('unet', stage=stage)

def timed_step(batch, device, numbers, seconds):
    "Seconds of a training step, and the memory of the card that it needs; nothing of it stays"
    start_memory(device)
    step = training_step(new_network(), batch, device, numbers)
    with numbers.rounding(): took = seconds_of(step, device, seconds)
    return took, memory_mb(device)

def training(device, sizes):
    "A training step of the default network (forward, loss, backward, AdamW) on chips of 128 px."
    for batch in sizes.batches:
        for numbers in numbers_of(device):
            took, memory = timed_step(batch, device, numbers, sizes.seconds)
            yield {'numbers': numbers.name, 'chips a step': batch, 'chips/s': batch/took, 'MB of the card': memory}

def toy_scene(side, seed=0):
    "A pair of noise in dB, dims (moment, channel, y, x)"
    rng = np.random.default_rng(seed)
    means = np.array([-9., -15.], 'float32')[:, None, None]
    noise = rng.standard_normal((2, 2, side, side), dtype='float32')
    return np.add(2*noise, means, dtype='float32')

def network_alone(device, sizes):
    "The network's own passes over windows that are on the device already: what the card can give at most."
    from landslide_nb.learn.networks import folded
    net = folded(new_network().eval()).to(device)
    for side in sizes.windows:
        for numbers in numbers_of(device):
            start_memory(device)
            x = torch.randn(1, 3, 2, side, side, device=device)
            with torch.inference_mode(), numbers.rounding(), numbers.autocast(device):
                took = seconds_of(lambda: net(x), device, sizes.seconds)
            speed, memory = side*side/1e6/took, memory_mb(device)
            yield {'numbers': numbers.name, 'window, px': side, 'Mpx/s': speed, 'MB of the card': memory}

def as_pair(scene):
    "A scene as a pair that the package maps"
    from landslide_nb.testing import on_grid
    bands = {name: (('moment', 'y', 'x'), scene[:, k]) for k, name in enumerate(('vv', 'vh'))}
    return on_grid(bands, scene.shape[-2:], 'EPSG:32654', (5e5, 4.7e6), 10.)

def whole_scene(device, sizes):
    "A whole scene in memory through `predict_scene`, as the package maps it."
    from landslide_nb.mapping.scene import predict_scene
    pair, net = as_pair(toy_scene(sizes.scene)), new_network().eval().to(device)
    reads = dict(channels=['vv', 'vh'], change=True, stats=STATS)
    header = dict(stage=2, input=reads, calibration=dict(scale=1., bias=0.))
    for numbers in numbers_of(device):
        start_memory(device)
        def mapped():
            "The scene once"
            return predict_scene(pair, net, header, fast=bool(numbers.low), progress=False)
        with numbers.rounding(): took = seconds_of(mapped, device, 0, warm=1, least=2)
        speed, memory = sizes.scene**2/1e6/took, memory_mb(device)
        yield {'numbers': numbers.name, 'scene, px': sizes.scene, 'Mpx/s': speed, 'MB of the card': memory}

def event_pair(side):
    "A pair of the embedded event"
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.simulate import simulate_event
    return make_pair(simulate_event('demo_a', 0, side, passes=(3, 3), orbits='ascending'))

def difference(ours, theirs, threshold):
    "How far a map is from another"
    apart = np.abs(ours - theirs)
    crossed = (ours > threshold) != (theirs > threshold)
    far = np.nan_to_num(apart) > NEAR
    return {
        'largest difference': float(np.nanmax(apart)),
        f'pixels further than {NEAR}': int(far.sum()),
        'pixels on the other side of the threshold': int(crossed.sum()),
        f'within {NEAR}': 'no' if far.any() else 'yes',
    }

def agreement(device, sizes):
    "The map of a simulated event with the shipped weights, beside the map in float32 on the processor."
    from landslide_nb.learn.models import load_model
    from landslide_nb.mapping.scene import predict_scene
    net, header = load_model('base')
    threshold = header['calibration']['threshold']
    pair = event_pair(sizes.event)
    reference = predict_scene(pair, net, header, progress=False).values
    net = net.to(device)
    for numbers in numbers_of(device):
        with numbers.rounding():
            found = predict_scene(pair, net, header, fast=bool(numbers.low), progress=False).values
        yield {'numbers': numbers.name, 'map, px': sizes.event, **difference(found, reference, threshold)}

@dataclass(frozen=True)
class Windows:
    "A scene in host memory, cut into windows for a device"
    scene:np.ndarray # (moment, channel, y, x)
    side:int         # pixels
    device:torch.device

    def slices(self):
        "Rows and columns of each window"
        starts = [range(0, length, self.side) for length in self.scene.shape[-2:]]
        return [(slice(y, y + self.side), slice(x, x + self.side)) for y in starts[0] for x in starts[1]]

    def packed(self, where):
        "A window as one block of memory, page-locked where a card will read it"
        window = torch.from_numpy(np.ascontiguousarray(self.scene[(..., *where)]))[None]
        return window.pin_memory() if self.device.type == 'cuda' else window

def mapped_in_turn(net, windows, normalize):
    "One after the other: pack, send, compute, fetch"
    for where in windows.slices():
        x = windows.packed(where).to(windows.device, non_blocking=True)
        yield where, net(normalize(x))[0].float().cpu()

class Sender:
    "Sends windows on a stream of its own, so that the card computes meanwhile; on a processor there is nothing to send"
    def __init__(self, device):
        "With a stream, if the device is a card"
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == 'cuda' else None

    def send(self, window):
        "Start a copy to the device"
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            return window.to(self.device, non_blocking=True)

    def arrived(self, x):
        "The copy, for the stream that computes"
        if self.stream:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            x.record_stream(here)
        return x

def mapped_ahead(net, windows, normalize):
    "Two streams: the window after next is packed by a thread, the next is sent, while this one is computed"
    places, sender = windows.slices(), Sender(windows.device)
    with ThreadPoolExecutor(1) as packer:
        packed = [packer.submit(windows.packed, where) for where in places[:2]]
        coming = sender.send(packed.pop(0).result())
        for k, where in enumerate(places):
            x = sender.arrived(coming)
            if packed: coming = sender.send(packed.pop(0).result())
            if k + 2 < len(places): packed.append(packer.submit(windows.packed, places[k + 2]))
            yield where, net(normalize(x))[0].float().cpu()

def mosaic(way, net, windows, normalize):
    "The logits of a whole scene"
    out = np.empty(windows.scene.shape[-2:], 'float32')
    with torch.inference_mode():
        for where, logits in way(net, windows, normalize): out[where] = logits.numpy()
    return out

WAYS = {'in turn': mapped_in_turn, 'two streams': mapped_ahead}

def timed_way(way, net, windows):
    "Seconds that a way to map a scene takes, and its map"
    from landslide_nb.learn.models import normalize_pair
    found = []
    def normalize(x):
        "As the network reads it"
        return normalize_pair(x, STATS)
    def whole():
        "The scene once; the latest map is kept"
        found[:] = [mosaic(way, net, windows, normalize)]
    return seconds_of(whole, windows.device, 0, warm=1, least=3), found[0]

def two_streams(device, sizes):
    "Windows from host memory: sent and computed in turn, and sent on a stream of its own while the card computes."
    from landslide_nb.learn.networks import folded
    net = folded(new_network().eval()).to(device)
    windows = Windows(toy_scene(sizes.scene), sizes.windows[-1], device)
    for numbers in numbers_of(device):
        with numbers.rounding(), numbers.autocast(device):
            measured = {name: timed_way(way, net, windows) for name, way in WAYS.items()}
        took = {name: seconds for name, (seconds, _) in measured.items()}
        maps = [found for _, found in measured.values()]
        same = 'yes' if np.array_equal(*maps) else 'no'
        for name in WAYS:
            speed, gain = sizes.scene**2/1e6/took[name], took['in turn']/took[name]
            size = {'numbers': numbers.name, 'windows': name, 'window, px': windows.side}
            yield {**size, 'Mpx/s': speed, 'times as fast as in turn': gain, 'the same map': same}

PARTS = dict(
    training=training,
    network_alone=network_alone,
    whole_scene=whole_scene,
    agreement=agreement,
    two_streams=two_streams,
)

def rows_in_time(part, device, sizes, clock):
    "The rows of a part as far as time and memory go, and why some are missing, or None"
    rows = []
    if clock.left() <= 0: return rows, 'no time left'
    try:
        for row in part(device, sizes):
            rows.append(row)
            if clock.left() <= 0: return rows, 'no time left for more'
    except (ImportError, torch.OutOfMemoryError) as e:
        return rows, f'{type(e).__name__}: {str(e).splitlines()[0]}'
    return rows, None

def number(value):
    "As a table shows it"
    if value is None: return ''
    return f'{value:,.4g}' if isinstance(value, float) else str(value)

def table(rows):
    "Rows as Markdown"
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = [' | '.join(columns), ' | '.join('---' for _ in columns)]
    lines += [' | '.join(number(row[name]) for name in columns) for row in rows]
    return '\n'.join(f'| {line} |' for line in lines)

def processor_name():
    "As Linux says it, or as Python does"
    found = Path('/proc/cpuinfo')
    lines = found.read_text().splitlines() if found.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or 'a processor'

def device_name(device):
    "What the numbers are of"
    if device.type == 'cuda': return torch.cuda.get_device_name(device)
    return f'{processor_name()}, {torch.get_num_threads()} threads'

def commit():
    "Of the sources that are measured, or ''"
    words = ['git', '-C', str(ROOT), 'rev-parse', '--short', 'HEAD']
    try: return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError: return ''

def heading(device):
    "The machine, the versions, and what the page is not"
    from landslide_nb import __version__
    here = commit()
    version = f'landslide_nb {__version__} at {here}' if here else f'landslide_nb {__version__}'
    words = f'{device_name(device)}; {os.cpu_count()} processor cores, torch {torch.__version__}, {version}.'
    lines = ['# The network on a graphics card', '', words, '']
    if device.type == 'cuda': return lines
    return [*lines, '**No card was found: these are numbers of the processor, and say nothing of any card.**', '']

def section(name, rows, missing):
    "One part of the page"
    lines = [f'## {name}', '', PARTS[name].__doc__, '']
    if rows: lines += [table(rows), '']
    if not missing: return lines
    what = 'Not measured to its end' if rows else 'Not measured'
    return [*lines, f'{what}: {missing}.', '']

def sizes_for(device, quick):
    "How much to measure"
    if quick: return QUICK
    return CARD if device.type == 'cuda' else PROCESSOR

def arguments(argv):
    "What the command line says"
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser('python -m benchmarks.gpu', description=__doc__, formatter_class=how)
    p.add_argument('parts', nargs='*', metavar='PART', help=f"of {', '.join(PARTS)}; default: all")
    p.add_argument('--quick', action='store_true', help='small sizes')
    p.add_argument('--minutes', type=float, default=6, help='after which no number more is begun (default 6)')
    p.add_argument('--device', help='cuda or cpu (default: cuda where there is a card)')
    p.add_argument('--out', type=Path, help='Markdown file to write, after every part; it is printed as well')
    args = p.parse_args(argv)
    unknown = set(args.parts) - set(PARTS)
    if unknown: p.error(f"unknown part {', '.join(sorted(unknown))}")
    return args

def main(argv=None):
    "Measure part by part, and write the page after each"
    args = arguments(argv)
    usual = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(args.device or usual)
    sizes, clock = sizes_for(device, args.quick), Clock(60*args.minutes)
    lines = heading(device)
    print('\n'.join(lines), flush=True)
    for name in args.parts or PARTS:
        found = section(name, *rows_in_time(PARTS[name], device, sizes, clock))
        print('\n'.join(found), flush=True)
        lines += found
        if args.out: args.out.write_text('\n'.join(lines))

if __name__ == '__main__': main()
