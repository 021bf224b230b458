"The duels: each calls the peer's own API on the same input in the same process, in turn, and returns its settings and one row a contender"
import json, subprocess, sys, tempfile, threading, time
from collections import namedtuple
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
DUELS = {}

def duel(f):
    "Enter a duel under its name"
    DUELS[f.__name__] = f
    return f

# {name: [wall seconds]}, {name: [CPU seconds of all threads]}, {name: last result}
Rounds = namedtuple('Rounds', 'seconds cpu results')

def rounds(contenders, scale, n=3, warm=True):
    "Take the contenders in turn, n times (once at small scale), after a warm-up round"
    found = Rounds({k: [] for k in contenders}, {k: [] for k in contenders}, {})
    last = n if scale > .5 else 1
    for i in range(0 if warm else 1, last + 1):
        for k, f in contenders.items():
            start, cpu = time.perf_counter(), time.process_time()
            found.results[k] = f()
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            if i == 0: continue # the warm-up
            found.seconds[k].append(took)
            found.cpu[k].append(cpu)
    return found

def times_longer(times, amount, name, ours):
    "How many times longer than ours a contender takes for as much work, round by round, the least first"
    return sorted(theirs/amount[name]/(own/amount[ours]) for theirs, own in zip(times[name], times[ours]))

def table(found, amount, unit, **more):
    "A row a contender: rate, and how many times faster the first (ours) is, by the clock and in CPU time; `amount` of work is a number or {name: number}"
    ours, rows = next(iter(found.seconds)), []
    amount = amount if isinstance(amount, dict) else dict.fromkeys(found.seconds, amount)
    for k, seconds in found.seconds.items():
        clock, cpu = (times_longer(times, amount, k, ours) for times in (found.seconds, found.cpu))
        faster = {'ours is faster by': float(median(clock)), 'range': f'{clock[0]:.2f} - {clock[-1]:.2f}',
                  'in CPU time': float(median(cpu))}
        if k == ours: faster = {'ours is faster by': None, 'range': '', 'in CPU time': None}
        rate = 1/median(s/amount[k] for s in seconds)
        rows.append({'': k, unit: rate, **faster, **{column: of.get(k) for column, of in more.items()}})
    return rows

def peak(f):
    "Result of f and how many MB the process grew at most while it ran"
    import psutil
    process, stop = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss
    def watch():
        "Look at the memory every 5 ms"
        nonlocal highest
        while not stop.wait(.005): highest = max(highest, process.memory_info().rss)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try: result = f()
    finally:
        stop.set()
        watcher.join()
    return result, (highest - before)/1e6

def model(seed=1, **config):
    "A default network in eval mode with statistics of its own, and what predict_scene needs beside it"
    import torch
    from landslide_nb.core import set_seed
    from landslide_nb.learn.networks import build_model
    set_seed(seed)
    net = build_model('unet', stage=2, **config).eval()
    for layer in net.modules():
        if not isinstance(layer, torch.nn.BatchNorm2d): continue
        layer.running_mean.normal_(0, .1)
        layer.running_var.uniform_(.5, 1.5)
    inputs = dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128)
    return net, dict(stage=2, input=inputs, calibration=dict(scale=1., bias=0.))

def cube_on_disk(folder, n, chunk=512, passes=3):
    "A made-up cube of n x n pixels as Zarr, one pass a chunk"
    import rioxarray # noqa: F401 (gives a cube its .rio)
    import xarray as xr
    rng, path = np.random.default_rng(0), Path(folder)/'cube.zarr'
    before = [np.datetime64('2018-09-05') - 12*k for k in range(passes)][::-1]
    after = [np.datetime64('2018-09-07') + 12*k for k in range(passes)]
    def band(mean): return ('time', 'y', 'x'), (mean*rng.gamma(9, 1/9, (2*passes, n, n))).astype('float32')
    bands = dict(vv=band(.1), vh=band(.025))
    coords = dict(time=np.array(before + after, 'datetime64[ns]'), orbit=('time', ['descending']*2*passes),
                  y=4.7e6 - 10*np.arange(n), x=4e5 + 10*np.arange(n))
    event = dict(event_name='x', event_start='2018-09-05', event_end='2018-09-07')
    cube = xr.Dataset(bands, coords, event).rio.write_crs('EPSG:32654')
    cube.chunk(time=1, y=chunk, x=chunk).to_zarr(path, zarr_format=2, consolidated=True)
    return path

def made_up_scores(n):
    "Truth of n pixels, 2 % landslide, and probabilities that know something of it"
    rng = np.random.default_rng(0)
    truth = (rng.random(n, dtype='float32') < .02).astype('uint8')
    prob = (1/(1 + np.exp(3 - rng.standard_normal(n, dtype='float32') - 2*truth))).astype('float32')
    return truth, prob

@duel
def average_precision(scale):
    "Average precision of many pixels: `StreamingAP` against scikit-learn and torchmetrics (goal: 40 x, under 100 MB, error under 5e-5)."
    import torch
    from sklearn.metrics import average_precision_score
    from torchmetrics.classification import BinaryAveragePrecision
    from landslide_nb.learn.metrics import StreamingAP
    n, step = int(1e8*scale), 2**22
    truth, prob = made_up_scores(n)
    def ours():
        "In pieces, as a scene is scored"
        ap = StreamingAP()
        for i in range(0, n, step): ap.update(prob[i:i+step], truth[i:i+step])
        return ap.value
    def scikit_learn(): return average_precision_score(truth, prob)
    def torchmetrics():
        "All at once"
        ap = BinaryAveragePrecision()
        ap.update(torch.from_numpy(prob), torch.from_numpy(truth).int())
        return float(ap.compute())
    contenders = {'StreamingAP': ours, 'scikit-learn': scikit_learn, 'torchmetrics': torchmetrics}
    ours()
    grown = {k: peak(f)[1] for k, f in contenders.items()} # warms up as well
    found = rounds(contenders, scale, 1, warm=False)
    exact = found.results['scikit-learn']
    error = {k: abs(score - exact) for k, score in found.results.items()}
    return f'{n:,} pixels, 2 % landslide', table(found, n/1e6, 'Mpx/s', **{'MB more': grown, 'error': error})

def labelled_pair(source, n):
    "A pair of the n x n px of a cube on disk, with a made-up truth of few pixels"
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.pair import make_pair
    pair = make_pair(open_cube(source), passes=1)
    truth = (np.random.default_rng(0).random((n, n)) < 1e-4).astype('uint8')
    return pair.assign(landslides=(('y', 'x'), truth))

def write_for_peers(pair, folder):
    "The pair as xbatcher and torchgeo take it: pair.zarr, and pair.tif with the truth as its last band"
    import xarray as xr
    from landslide_nb.mapping.runfolder import write_cog
    layers = pair[['vv', 'vh', 'landslides']].drop_attrs()
    layers.chunk(moment=1, y=512, x=512).to_zarr(f'{folder}/pair.zarr', zarr_format=2)
    images = [pair[c].isel(moment=m, drop=True).load() for m in (0, 1) for c in ('vv', 'vh')]
    bands = xr.concat([*images, pair.landslides.astype('float32')], 'band').rio.write_crs(32654)
    write_cog(bands, f'{folder}/pair.tif', ['a', 'b', 'c', 'd', 'truth'])

def from_stack(stack, size):
    "A function that puts every pre-cut chip into a batch, in another order each time, and says how many"
    import torch
    order = np.random.default_rng(0)
    def run():
        "All whole batches"
        rows = order.permutation(len(stack))
        for i in range(0, len(rows) - size + 1, size):
            taken = rows[i:i+size]
            torch.stack([stack.pair(r) for r in taken])
            torch.stack([stack.truth(r) for r in taken])
        return len(rows)//size*size
    return run

def from_xbatcher(path, side, size, take=48):
    "A function that puts chips of a pair in Zarr into batches with xbatcher, and says how many"
    import torch, xarray as xr, xbatcher
    pair = xr.open_zarr(path)
    def tensors(chip):
        "Images and truth of a chip"
        images = np.stack([chip[c].values for c in ('vv', 'vh')])
        return torch.from_numpy(images), torch.from_numpy(chip.landslides.values)
    def run():
        "The first ones, in xbatcher's order"
        got, batch = 0, []
        for chip in xbatcher.BatchGenerator(pair, dict(y=side, x=side)):
            batch.append(tensors(chip))
            got += 1
            if len(batch) == size:
                for part in zip(*batch): torch.stack(part)
                batch = []
            if got == take: break
        return got
    return run

def from_torchgeo(folder, side, size, take=48):
    "A function that puts chips of a pair in a raster into batches with torchgeo, and says how many"
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler
    class Pair(RasterDataset):
        "The raster"
        filename_glob = 'pair.tif'
        is_image = True
    data = Pair(folder)
    def run():
        "Chips at random places"
        places = RandomGeoSampler(data, size=side, length=take)
        loader = DataLoader(data, batch_size=size, sampler=places, collate_fn=stack_samples)
        return sum(len(batch['image']) for batch in loader)
    return run

def chip_contenders(folder, n, side, size):
    "{name: function that loads chips into batches and says how many}, of the same made-up pair"
    from landslide_nb.data.chips import ChipStack, make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.learn.data import finetune_dls
    pair = labelled_pair(cube_on_disk(folder, n, passes=1), n)
    write_for_peers(pair, folder)
    cut = split_chips(make_chips(pair.load(), f'{folder}/chips'), by='random')
    stack, dls = ChipStack(cut), finetune_dls(cut, epoch_chips=1024)
    def loader(): return sum(len(batch[0]) for batch in dls.train)
    return {'landslide_nb, bare batches': from_stack(stack, size),
            'landslide_nb, loader with normalisation, change and turns': loader,
            'xbatcher, bare batches': from_xbatcher(f'{folder}/pair.zarr', side, size),
            'torchgeo, bare batches': from_torchgeo(folder, side, size)}

def training_cost(x):
    "CPU seconds a chip that a training step of the default network takes; x (B, 3, channels, H, W)"
    from landslide_nb.learn.networks import build_model
    step = training_steps(x, {'ours': build_model('unet', stage=2)})['ours']
    step()
    start = time.process_time()
    for _ in range(5): step()
    return (time.process_time() - start)/5/len(x)

@duel
def chips(scale):
    "Chips of 128 x 128 x (2 moments, VV and VH, truth) into a training batch of 16: pre-cut chips and their loader against xbatcher on a Zarr cube and torchgeo on its raster (goals: 100 x and 50 x; waiting for data under 5 % of an epoch)."
    import torch
    import xbatcher # noqa: F401 (a peer that is absent is said before anything is made)
    import torchgeo.datasets # noqa: F401
    n = max(1024, int(2048*scale**.5)//128*128)
    side, size = 128, 16
    with tempfile.TemporaryDirectory() as d:
        found = rounds(chip_contenders(d, n, side, size), scale)
        training = training_cost(torch.randn(size, 3, 2, side, side))
        loading = {k: median(found.cpu[k])/found.results[k] for k in found.cpu}
        waiting = {k: f'{each/(each + training):.1%}' for k, each in loading.items() if each}
        said = (f'{n} x {n} px; Zarr chunks and raster blocks of 512; '
                'waiting: the share of an epoch of the default network that is spent on loading, in CPU time')
        return said, table(found, found.results, 'chips/s', waiting=waiting)

def computing_in(dtype):
    "While a network computes in a type of number; None: float32"
    import torch
    return torch.autocast('cpu', dtype) if dtype else nullcontext()

def logits_of(net, x):
    "Logits (B, H, W) of a network of ours or of a peer, from (B, 3, channels, H, W)"
    config = getattr(net, 'config', None)
    if isinstance(config, dict) and 'moments' in config: return net(x[:, :config['moments']])
    return net(x.flatten(1, 2))[:, 0]

def take_step(net, opt, loss, x, y, dtype):
    "One step of forward, loss, backward and the optimizer"
    with computing_in(dtype): out = logits_of(net, x)
    loss(out.float(), y).backward()
    opt.step()
    opt.zero_grad()

def training_steps(x, nets, dtype=None, lr=1e-3):
    "{name: function that makes one step of forward, loss, backward and AdamW on a batch}; x (B, moments, channels, H, W); a network that takes images gets (B, moments*channels, H, W); dtype: of the forward pass, None: float32"
    import torch
    from landslide_nb.learn.losses import BCEDice
    y, loss = (torch.rand(x.shape[0], *x.shape[-2:]) < .02).to(torch.uint8), BCEDice()
    def steps_of(net):
        "The function of one network"
        opt = torch.optim.AdamW(net.train().parameters(), lr)
        def run():
            "A step, and how many chips it saw"
            take_step(net, opt, loss, x, y, dtype)
            return len(x)
        return run
    return {k: steps_of(net) for k, net in nets.items()}

def networks():
    "The contenders of training: the default network, smp's and fastai's ResNet-34 U-Nets with random weights, the published stage 2"
    import segmentation_models_pytorch as smp
    from fastai.vision.models import resnet34
    from fastai.vision.learner import create_unet_model
    from landslide_nb.learn.networks import build_model
    def unet_of_smp(): return smp.Unet('resnet34', encoder_weights=None, in_channels=6, classes=1)
    def unet_of_fastai(): return create_unet_model(resnet34, 1, (128, 128), pretrained=False, n_in=6)
    return {'landslide_nb unet': partial(build_model, 'unet', stage=2), 'smp.Unet resnet34': unet_of_smp,
            'fastai create_unet_model resnet34': unet_of_fastai,
            'published stage 2': partial(build_model, 'published', stage=2, moments=2)}

@duel
def training_step(scale):
    "A training step (forward, loss, backward, AdamW) at 128 x 128, batch 16: the default network against smp's and fastai's ResNet-34 U-Nets and the published stage 2 (goals: 2 x, 8 x, 15 x)."
    import torch
    from landslide_nb.learn.models import fast_dtype
    low, rows = fast_dtype('cpu'), []
    for dtype in (None, low) if low else (None,):
        x = torch.randn(16, 3, 2, 128, 128)
        steps = training_steps(x, {k: make() for k, make in networks().items()}, dtype)
        ending = ', bfloat16' if dtype else ''
        rows += [{**row, '': row[''] + ending} for row in table(rounds(steps, scale), 16, 'chips/s')]
    said = 'float32, and bfloat16 (as the package trains) where the processor computes it itself, both for all; '
    return f'{said}{torch.get_num_threads()} threads, random weights', rows

def learn(net, rate, batches, dtype):
    "Train a network with one cycle of AdamW, each batch once; CPU seconds"
    import torch
    from landslide_nb.learn.losses import BCEDice
    opt, loss = torch.optim.AdamW(net.train().parameters(), rate), BCEDice()
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, rate, total_steps=len(batches))
    start = time.process_time()
    for x, y in batches:
        take_step(net, opt, loss, x, y, dtype)
        plan.step()
    return time.process_time() - start

def logits_of_all(net, x):
    "Logits (N, H, W) of many chips, 16 at a time"
    import torch
    with torch.inference_mode(): return torch.cat([logits_of(net.eval(), part) for part in x.split(16)])

def lesson(chips, rows, seen, seed):
    "Batches to train on, the test chips in `rows` as networks take them, and how many training chips there are"
    import torch
    from landslide_nb.learn.data import finetune_dls
    from landslide_nb.learn.models import normalize_pair
    dls = finetune_dls(chips, epoch_chips=seen, seed=seed)
    batches = [tuple(part.as_subclass(torch.Tensor) for part in batch) for batch in dls.train]
    images = torch.stack([dls.chips.pair(int(r)) for r in rows])
    return batches, normalize_pair(images, dls.stats, True), len(dls.rows['train'])

def learn_and_score(make, seed, rate, given, truth, dtype):
    "Average precision on the test chips of a network that took what `lesson` gives, and CPU seconds of its training"
    from landslide_nb.core import set_seed
    from landslide_nb.learn.metrics import average_precision
    batches, test, _ = given
    set_seed(seed)
    net = make()
    seconds = learn(net, rate, batches, dtype)
    return average_precision(logits_of_all(net, test), truth, scores=True), seconds

def learning_row(name, found, rate):
    "A row of `learning`; found: (average precision, CPU seconds) a seed"
    scores, seconds = zip(*found)
    return {'': name, 'AUPRC': sum(scores)/len(found), 'each seed': ', '.join(f'{ap:.3f}' for ap in scores),
            'highest rate': rate, 'training, CPU s': sum(seconds)/len(found)}

@duel
def learning(scale):
    "What the same number of chips teaches: every network of `training_step` from random weights, the same chips in the same order, one-cycle AdamW (highest rate 1e-3 for peers and the published network, as its authors had it; the package's own for its network), scored on spatially separate test chips of the embedded demo_a (goal: no lower AUPRC than each)."
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.simulate import simulate_event
    from landslide_nb.data.split import split_chips
    from landslide_nb.learn.finetune import FINETUNE_RATE, truth_of
    from landslide_nb.learn.models import fast_dtype
    seen, seeds = max(64, int(512*scale)//16*16), range(3 if scale > .5 else 1)
    low, makers = fast_dtype('cpu'), networks()
    rates = {**dict.fromkeys(makers, 1e-3), 'landslide_nb unet': FINETUNE_RATE}
    found = {k: [] for k in makers}
    with tempfile.TemporaryDirectory() as d:
        chips = split_chips(make_chips(make_pair(simulate_event('demo_a', size=2048)), f'{d}/chips'), block=4)
        rows = chips.rows('test')
        truth = truth_of(chips, rows)
        for seed in seeds:
            given = lesson(chips, rows, seen, seed)
            for k, make in makers.items(): found[k].append(learn_and_score(make, seed, rates[k], given, truth, low))
        baseline = float((truth == 1).sum()/(truth != 255).sum())
    plural, numbers = 's' if len(seeds) > 1 else '', 'bfloat16' if low else 'float32'
    said = (f'{seen} chips seen ({given[-1]} training chips), {len(rows)} test chips, {len(seeds)} seed{plural}; '
            f'{numbers} for all; a map of zeros scores {baseline:.3f}')
    return said, [learning_row(k, of, rates[k]) for k, of in found.items()]

class SceneOnDisk:
    "A made-up cube as the contenders of `scene_inference` read it, and the raster that each writes"

    def __init__(self, folder, n):
        "Make the cube of n x n px"
        self.source, self.out = cube_on_disk(folder, n), f'{folder}/p.tif'
        self.grid = self.pair().vv.isel(moment=0, drop=True)

    def pair(self):
        "The pair, not read yet"
        from landslide_nb.data.cube import open_cube
        from landslide_nb.data.pair import make_pair
        return make_pair(open_cube(self.source))

    def stacked(self):
        "The pair as the network takes it, (1, 3, channels, y, x)"
        import torch
        from landslide_nb.learn.models import normalize_pair
        from landslide_nb.mapping.scene import stack_pair
        layers = stack_pair(self.pair(), ['vv', 'vh']).values
        return normalize_pair(torch.from_numpy(layers)[None], STATS, True)

    def image(self):
        "The same as an image, (1, 3*channels, y, x), which is what other tilers cut"
        return self.stacked().flatten(1, 2)

    def write(self, prob):
        "Write probabilities (y, x) as a raster, and give them back"
        from landslide_nb.mapping.runfolder import write_cog
        write_cog(self.grid.copy(data=np.asarray(prob, 'float32')), self.out, ['probability'])
        return np.asarray(prob)

    def write_logits(self, logits):
        "Write logits (y, x) as probabilities, and give those back"
        from landslide_nb.learn.calibration import calibrate
        return self.write(calibrate(logits, {}))

def by_monai(scene, predict):
    "A scene in windows with monai"
    from monai.inferers import sliding_window_inference
    logits = sliding_window_inference(scene.image(), 512, 1, predict, overlap=.25, mode='gaussian')
    return scene.write_logits(logits[0, 0].numpy())

def by_tiler(scene, predict):
    "A scene in windows with tiler"
    import torch
    from tiler import Merger, Tiler
    image = scene.image()[0].numpy()
    shared = dict(overlap=(0, 128, 128), channel_dimension=0)
    tiler = Tiler(image.shape, (6, 512, 512), **shared)
    merger = Merger(Tiler((1, *image.shape[1:]), (1, 512, 512), **shared), window='overlap-tile')
    for i, tile in tiler(image):
        window = torch.from_numpy(np.ascontiguousarray(tile))[None]
        merger.add(i, predict(window)[0].numpy())
    return scene.write_logits(merger.merge(unpad=True)[0])

def by_terratorch(scene, predict):
    "A scene in windows with terratorch"
    from terratorch.tasks.tiled_inference import tiled_inference
    logits = tiled_inference(predict, scene.image(), out_channels=1, crop=512, stride=384, delta=8,
                             average_patches=True, blend_overlaps=True, verbose=False)
    return scene.write_logits(logits[0, 0].numpy())

def scene_contenders(scene, net, meta):
    "{name: function that maps the scene and gives its probabilities}, ours first"
    import torch
    from landslide_nb.mapping.scene import predict_scene
    def predict(x): return net(x.unflatten(1, (3, 2)))[:, None]
    def ours(): return scene.write(predict_scene(scene.pair(), net, meta, progress=False).values)
    def untiled(): return scene.write_logits(net(scene.stacked())[0].numpy())
    forward_only = torch.inference_mode()
    return {'landslide_nb': ours, 'untiled pass': forward_only(untiled),
            'monai, 25 % gaussian': forward_only(partial(by_monai, scene, predict)),
            'tiler, 25 % overlap-tile': forward_only(partial(by_tiler, scene, predict)),
            'terratorch, 25 % blended': forward_only(partial(by_terratorch, scene, predict))}

@duel
def scene_inference(scale):
    "A scene through the same network: `predict_scene` against its untiled pass and other tilers; a pixel is wrong if its probability differs by more than 1e-5 from the untiled pass (goals: 0.85 of untiled, faster than every peer, 0 wrong pixels)."
    import torch
    import monai.inferers # noqa: F401 (a peer that is absent is said before anything is made)
    import tiler # noqa: F401
    import terratorch.tasks.tiled_inference # noqa: F401
    n, (net, meta) = max(768, int(2048*scale**.5)), model()
    with tempfile.TemporaryDirectory() as d:
        found = rounds(scene_contenders(SceneOnDisk(d, n), net, meta), scale)
        off = {k: abs(prob - found.results['untiled pass']) for k, prob in found.results.items()}
        wrong = {k: int((far > 1e-5).sum()) for k, far in off.items()}
        largest = {k: float(far.max()) for k, far in off.items()}
        said = f'{n} x {n} px from Zarr (3+3 passes) to a COG, random weights, {torch.get_num_threads()} threads'
        return said, table(found, n*n/1e6, 'Mpx/s', **{'wrong pixels': wrong, 'largest difference': largest})

PNG = Path(__file__).parents[2]/'shared'/'data'/'png_2024'/'png_landslide_2024_track9.nc' # kept beside the project, not in it

def as_opera_takes(dm, bands):
    "Linear power as a release of `distmetrics` takes it: newer ones leave the logit to their caller"
    from scipy.special import logit
    if not hasattr(dm, 'ALLOWED_MODELS'): return bands
    return [logit(band) if isinstance(band, np.ndarray) else [logit(one) for one in band] for band in bands]

def repeated_png(n):
    "The real cube repeated to n x n px, and its event"
    from landslide_nb.data.cube import cube_event, open_cube
    small, times = open_cube(PNG), (1, n//50, n//50)
    bands = {c: (('time', 'y', 'x'), np.tile(small[c].values, times)) for c in ('vv', 'vh')}
    cube = small.drop_vars(['vv', 'vh', 'landslides', 'y', 'x']).assign(bands)
    y, x = small.y.values[0] - 30*np.arange(n), small.x.values[0] + 30*np.arange(n)
    return cube.assign_coords(y=y, x=x), cube_event(small)

def opera_transformers(dm):
    "{name: network} of OPERA's transformers that a release of `distmetrics` has"
    smaller = 'transformer_optimized' # OPERA's own faster one, in newer releases
    found = {'transformer': dm.load_transformer_model()}
    if smaller in getattr(dm, 'ALLOWED_MODELS', ()):
        found['transformer, optimized'] = dm.load_transformer_model(smaller)
    return found

def opera_metrics(dm, pre, post):
    "{name: function that makes a map with `distmetrics`}; pre and post: of vv and vh each"
    def mahalanobis(): return dm.compute_mahalonobis_dist_2d(*pre, *post)
    def transformed(network):
        "The function of one transformer"
        return lambda: dm.compute_transformer_zscore(network, *as_opera_takes(dm, pre), *as_opera_takes(dm, post))
    scored = {f'distmetrics {name}': transformed(network) for name, network in opera_transformers(dm).items()}
    return {'distmetrics Mahalanobis': mahalanobis, **scored}

def our_maps(cube, event, net, meta):
    "{name: function that makes a map without labels}"
    from landslide_nb.data.baselines import standardized_change
    from landslide_nb.data.pair import log_ratio, make_pair, with_ratio_std
    from landslide_nb.mapping.scene import predict_scene
    def pair(): return make_pair(cube, event, passes=None)
    return {'landslide_nb network': lambda: predict_scene(pair(), net, meta, progress=False).values,
            'landslide_nb log-ratio': lambda: log_ratio(pair()).score.values,
            'landslide_nb standardized change': lambda: standardized_change(with_ratio_std(pair(), cube)).values}

@duel
def map_without_labels(scale):
    "A map without labels of the real 2024 cube (Papua New Guinea), repeated to 1,000 px squared: the default network, the log-ratio and the standardized change against OPERA's transformer and Mahalanobis metrics (`distmetrics`) (goal: 10 x the transformer)."
    import distmetrics as dm
    if not PNG.exists(): raise ImportError('the real cube is kept beside the project and is absent here')
    n, (net, meta) = max(100, int(1000*scale**.5)//50*50), model()
    cube, event = repeated_png(n)
    before, after = (np.flatnonzero(side(cube.time.values)) for side in (event.is_pre, event.is_post))
    pre = [list(cube[c].values[before]) for c in ('vv', 'vh')]
    post = [cube[c].values[after[0]] for c in ('vv', 'vh')]
    contenders = {**our_maps(cube, event, net, meta), **opera_metrics(dm, pre, post)}
    for k, f in contenders.items():
        if 'transformer' not in k: f() # which takes minutes: one round, without a warm-up
    found = rounds(contenders, scale, 1, warm=False)
    said = (f'{n} x {n} px, {len(before)} passes before; distmetrics {version("distmetrics")}; '
            f'ours use all {len(after)} after, the peers the first')
    return said, table(found, n*n/1e6, 'Mpx/s')

def pair_in_windows(source, n):
    "The pair of a cube of n x n px in windows of 1,024 px; a sum of a row of each is all that is kept"
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.pair import make_pair
    pair, starts = make_pair(open_cube(source)), range(0, n, 1024)
    windows = [dict(y=slice(i, i+1024), x=slice(j, j+1024)) for i in starts for j in starts]
    def first_row(window): return pair[['vv', 'vh']].isel(window).to_array().values[0, 0, 0]
    return sum(float(np.nansum(first_row(window))) for window in windows)

def load_and_average(source, n):
    "The pair of a cube the straightforward xarray way, and a sum of its first row"
    import xarray as xr
    cube = xr.open_zarr(source).load()
    pre = cube.where(cube.time <= np.datetime64('2018-09-05'), drop=True).mean('time')
    post = cube.where(cube.time >= np.datetime64('2018-09-07'), drop=True).mean('time')
    decibels = 10*np.log10(xr.concat([pre, post], 'moment'))
    return float(decibels.vv[0, 0].sum())

@duel
def opening_and_pairing(scale):
    "From a Zarr cube to a pair written window by window, against the straightforward xarray way (select, `mean`, `load`) (goal: 3 x faster, a tenth of the memory)."
    n = max(1024, int(4096*scale**.5))
    ways = {'landslide_nb, windows': pair_in_windows, 'xarray, load': load_and_average}
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/'small').mkdir()
        source, small = cube_on_disk(d, n), cube_on_disk(f'{d}/small', 512)
        for f in ways.values(): f(small, 512) # imports are neither's memory
        contenders = {k: partial(f, source, n) for k, f in ways.items()}
        grown = {k: peak(f)[1] for k, f in contenders.items()}
        rows = table(rounds(contenders, scale), n*n/1e6, 'Mpx/s', **{'MB more': grown})
        return f'{n} x {n} px, 3+3 passes, chunks of 512', rows

def tiles_of(cube, folder, net, meta):
    "A function that maps a cube on disk into tiles, which are thrown away"
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.pair import make_pair
    from landslide_nb.mapping.scene import predict_tiles
    def run():
        "From the cube to the last tile"
        with tempfile.TemporaryDirectory(dir=folder) as work:
            predict_tiles(make_pair(open_cube(cube), passes=1), net, meta, f'{work}/t', progress=False)
    return run

def epoch_of(cube, folder, n):
    "A function that loads every chip of a cube of n x n px once"
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.learn.data import finetune_dls
    chips = split_chips(make_chips(labelled_pair(cube, n), f'{folder}/chips'), by='random')
    dls = finetune_dls(chips, epoch_chips=len(chips))
    return lambda: sum(len(batch[0]) for batch in dls.train)

def growth_rows(found, amount):
    "A row for each of one kind of work, {name: amount}, smallest first"
    names = list(amount)
    def each(times, k): return median(times[k])/amount[k]
    def more(times, k): return each(times, k)/each(times, names[0])
    def further(i):
        "CPU seconds of a pixel or chip more than in the row above"
        above, here = names[i-1], names[i]
        return (median(found.cpu[here]) - median(found.cpu[above]))/(amount[here] - amount[above])
    return [{'': k, 'Mpx/s or chips/s': 1/each(found.seconds, k), 'cost of each, relative': more(found.seconds, k),
             'in CPU time': more(found.cpu, k), 'of each further one': further(i)/further(1) if i else None}
            for i, k in enumerate(names)]

@duel
def growth(scale):
    "How cost grows: a whole scene into tiles on disk at 1, 4 and 16 times the area, and an epoch of chips at 1, 4 and 16 times their number (goal: linear within 10 %). `of each further one`: what a pixel or chip more than in the row above costs, in CPU time, relative to the first such step; it leaves out what every scene costs once."
    n, (net, meta) = max(512, int(2048*scale**.5)//256*256), model(width=4, levels=3)
    sides = n, 2*n, 4*n
    pixels, cut = {f'{s} x {s} px': s*s/1e6 for s in sides}, {f'{(s//128)**2} chips': (s//128)**2 for s in sides}
    with tempfile.TemporaryDirectory() as d:
        for s in sides:
            (Path(d)/str(s)).mkdir()
            cube_on_disk(f'{d}/{s}', s, passes=1)
        scenes = [tiles_of(f'{d}/{s}/cube.zarr', d, net, meta) for s in sides]
        epochs = [epoch_of(f'{d}/{s}/cube.zarr', f'{d}/{s}', s) for s in sides]
        found = rounds({**dict(zip(pixels, scenes)), **dict(zip(cut, epochs))}, scale)
    return 'small network (width 4, 3 levels)', growth_rows(found, pixels) + growth_rows(found, cut)

@duel
def memory(scale):
    "Peak memory of `map_pair` (map, rasters, polygons, report) on scenes made up while they are read (goal: it does not grow with the scene)."
    large, small = ((2048, 1), (8192, 1), (20480, 16)), ((512, 1), (2048, 1), (4096, 16))
    sizes, rows = large if scale > .5 else small, []
    for n, every in sizes:
        with tempfile.TemporaryDirectory() as d:
            code = f'from benchmarks.duels import map_made_up; map_made_up({n}, {every}, {d!r})'
            words = [sys.executable, '-W', 'ignore', '-c', code]
            out = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        if out.returncode: raise RuntimeError(out.stderr[-500:])
        rows.append(json.loads(out.stdout.splitlines()[-1]))
    return MEMORY, rows

MEMORY = 'each in a process of its own; small network (width 4, 3 levels), noise as data, nothing above the threshold; of the largest scene only one block of 16 holds data, the rest is no data, so that it takes minutes and not an hour'

def made_up_pair(n, block):
    "A pair of n x n px whose blocks of 1,024 px are made by a function when they are read"
    import dask.array as da, xarray as xr
    import rioxarray # noqa: F401 (gives a pair its .rio)
    sides = da.core.normalize_chunks(1024, (n,))[0]
    def band():
        "vv or vh, not read yet"
        empty = np.empty((0, 0, 0), 'float32')
        return ('moment', 'y', 'x'), da.map_blocks(block, chunks=((2,), sides, sides), dtype='float32', meta=empty)
    coords = dict(moment=['pre', 'post'], y=4.7e6 - 10*np.arange(n), x=4e5 + 10*np.arange(n))
    return xr.Dataset(dict(vv=band(), vh=band()), coords).rio.write_crs('EPSG:32654')

def highest_mb():
    "The most memory that this process has had, MB"
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3

def map_made_up(n, every, folder):
    "Map a scene of n x n px whose blocks are made up when they are read, one of `every` with data; print time and memory as JSON"
    from landslide_nb.mapping.mapping import map_pair
    noise = np.random.default_rng(0).normal(-12, 2, (2, 1536, 1536)).astype('float32')
    net, meta = model(width=4, levels=3)
    def block(block_info=None):
        "A block of the scene, (2, y, x)"
        (_, i, j), (_, h, w) = block_info[None]['chunk-location'], block_info[None]['chunk-shape']
        if (5*i + 3*j) % every: return np.full((2, h, w), np.nan, 'float32')
        return noise[:, 37*i % 512:, 53*j % 512:][:, :h, :w]
    # nothing above the threshold: every polygon that is kept is a row of the result
    low = net, dict(meta, calibration=dict(scale=1., bias=-60.))
    map_pair(made_up_pair(256, block), low, f'{folder}/small', progress=False) # imports, fonts
    before = highest_mb()
    start, cpu = time.perf_counter(), time.process_time()
    map_pair(made_up_pair(n, block), low, f'{folder}/run', progress=False)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    row = {'': f'{n} x {n} px', 'blocks with data': f'1 of {every}' if every > 1 else 'all', 's': took, 'CPU s': cpu,
           'Mpx/s': n*n/1e6/took, 'MB before': before, 'MB more at the peak': highest_mb() - before,
           'MB of the pair': n*n*16/1e6}
    print(json.dumps(row))

def bare_passes(seconds):
    "Passes a second of the default network over a tile of 384 px, in this process with one thread"
    import torch
    torch.set_num_threads(1)
    net, x = model()[0], torch.randn(1, 3, 2, 384, 384)
    with torch.inference_mode():
        net(x)
        n, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            net(x)
            n += 1
    return n/(time.perf_counter() - start)

def ceiling(seconds=8):
    "How much more two processes do than one when they do nothing but the network's passes: what two cores of this machine can give at all"
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    def rate(n):
        "Passes a second of n processes together"
        with ProcessPoolExecutor(n, get_context('spawn')) as pool: return sum(pool.map(bare_passes, [seconds]*n))
    return rate(2)/rate(1)

def map_on_cluster(workers, pair, net, meta, folder):
    "The map of a pair by one-thread workers, and how many seconds it took"
    from distributed import Client, LocalCluster
    from landslide_nb.mapping.scene import predict_scene
    as_asked = dict(n_workers=workers, threads_per_worker=1, dashboard_address=None, local_directory=folder)
    with LocalCluster(**as_asked) as machines, Client(machines):
        predict_scene(pair.isel(y=slice(0, 128), x=slice(0, 128)), net, meta, progress=False) # workers import torch
        start = time.perf_counter()
        prob = predict_scene(pair, net, meta, progress=False).values
        return prob, time.perf_counter() - start

def cluster_row(workers, seconds, maps, megapixels):
    "A row of `cluster`; seconds and maps: {workers: of each round}, {workers: last map}"
    one, these = seconds[1], seconds[workers]
    ratios = sorted(a/b for a, b in zip(one, these))
    return {'': f'{workers} worker{"s" if workers > 1 else ""}', 'Mpx/s': megapixels/median(these),
            'speed-up': median(ratios), 'range': f'{ratios[0]:.2f} - {ratios[-1]:.2f}',
            'of the fastest rounds': min(one)/min(these),
            'largest difference': float(abs(maps[1] - maps[workers]).max())}

@duel
def cluster(scale):
    "The same map on a dask cluster of one and of two one-thread workers (goal: 1.7 times, the same result), beside two bare processes that do nothing but the network's passes."
    import distributed # noqa: F401 (absent: said before anything is made)
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    n, (net, meta) = max(768, int(4096*scale**.5)), model()
    seconds, maps = {1: [], 2: []}, {}
    with tempfile.TemporaryDirectory() as d:
        pair = make_pair(open_cube(cube_on_disk(d, n)))
        for i in range(4 if scale > .5 else 2):
            for workers in (2, 1):
                maps[workers], took = map_on_cluster(workers, pair, net, meta, d)
                if i: seconds[workers].append(took) # the first round warms up
        bare = sorted(ceiling() for _ in range(3))
        rows = [cluster_row(workers, seconds, maps, n*n/1e6) for workers in (1, 2)]
    alone = {'': '2 bare processes', 'speed-up': median(bare), 'range': f'{bare[0]:.2f} - {bare[-1]:.2f}'}
    return f'{n} x {n} px', rows + [alone]
