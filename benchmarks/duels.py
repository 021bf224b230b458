"The duels: each calls the peer's own API on the same input in the same process, in turn, and returns its settings and one row a contender"
import json, subprocess, sys, tempfile, threading, time
from collections import namedtuple
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
DUELS = {}

def duel(f): DUELS[f.__name__] = f; return f

Rounds = namedtuple('Rounds', 'seconds cpu results') # {name: [wall seconds]}, {name: [CPU seconds of all threads]}, {name: last result}

def rounds(contenders, scale, n=3, warm=True):
    "Take the contenders in turn, n times (once at small scale), after a warm-up round"
    out = Rounds({k: [] for k in contenders}, {k: [] for k in contenders}, {})
    for i in range(0 if warm else 1, (n if scale > .5 else 1)+1):
        for k, f in contenders.items():
            t, c = time.perf_counter(), time.process_time()
            out.results[k] = f()
            t, c = time.perf_counter()-t, time.process_time()-c
            if i: out.seconds[k].append(t); out.cpu[k].append(c)
    return out

def table(found, amount, unit, **more):
    "A row a contender: rate, and how many times faster the first (ours) is, by the clock and in CPU time; `amount` of work is a number or {name: number}"
    ours, rows = next(iter(found.seconds)), []
    amount = amount if isinstance(amount, dict) else dict.fromkeys(found.seconds, amount)
    each = lambda times, k: [t/amount[k] for t in times[k]]
    for k in found.seconds:
        ratio, cpu = (sorted(o/a for o, a in zip(each(times, k), each(times, ours))) for times in (found.seconds, found.cpu))
        row = {'': k, unit: 1/median(each(found.seconds, k)), 'ours is faster by': None if k == ours else float(median(ratio)), 'range': '' if k == ours else f'{ratio[0]:.2f} - {ratio[-1]:.2f}',
               'in CPU time': None if k == ours else float(median(cpu))}
        rows.append({**row, **{c: v.get(k) for c, v in more.items()}})
    return rows

def peak(f):
    "Result of f and how many MB the process grew at most while it ran"
    import psutil
    me, top, stop = psutil.Process(), [0], threading.Event()
    before = me.memory_info().rss
    def watch():
        while not stop.wait(.005): top[0] = max(top[0], me.memory_info().rss)
    t = threading.Thread(target=watch); t.start()
    try: out = f()
    finally: stop.set(); t.join()
    return out, max(0, top[0]-before)/1e6

def model(seed=1, **config):
    "A default network in eval mode with statistics of its own, and what predict_scene needs beside it"
    import torch
    from landslide_nb.core import set_seed
    from landslide_nb.learn.networks import build_model
    set_seed(seed)
    net = build_model('unet', stage=2, **config).eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 1.5)
    return net, dict(stage=2, input=dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128), calibration=dict(scale=1., bias=0.))

def cube_on_disk(folder, n, chunk=512, passes=3):
    "A made-up cube of n x n pixels as Zarr, one pass a chunk"
    import xarray as xr, rioxarray
    rng = np.random.default_rng(0)
    dates = np.array([np.datetime64('2018-09-05')-12*k for k in range(passes)][::-1] + [np.datetime64('2018-09-07')+12*k for k in range(passes)], 'datetime64[ns]')
    band = lambda m: (('time', 'y', 'x'), (m*rng.gamma(9, 1/9, (2*passes, n, n))).astype('float32'))
    cube = xr.Dataset(dict(vv=band(.1), vh=band(.025)), coords=dict(time=dates, orbit=('time', ['descending']*2*passes), y=4.7e6-10*np.arange(n), x=4e5+10*np.arange(n)),
        attrs=dict(event_name='x', event_start='2018-09-05', event_end='2018-09-07')).rio.write_crs('EPSG:32654')
    cube.chunk(time=1, y=chunk, x=chunk).to_zarr(Path(folder)/'cube.zarr', zarr_format=2, consolidated=True)
    return Path(folder)/'cube.zarr'

@duel
def average_precision(scale):
    "Average precision of many pixels: `StreamingAP` against scikit-learn and torchmetrics (goal: 40 x, under 100 MB, error under 5e-5)."
    import torch
    from sklearn.metrics import average_precision_score
    from torchmetrics.classification import BinaryAveragePrecision
    from landslide_nb.learn.metrics import StreamingAP
    n, rng = int(1e8*scale), np.random.default_rng(0)
    truth = (rng.random(n, dtype='float32') < .02).astype('uint8')
    prob = (1/(1+np.exp(3-rng.standard_normal(n, dtype='float32')-2*truth))).astype('float32')
    step = 2**22
    def ours():
        ap = StreamingAP()
        for i in range(0, n, step): ap.update(prob[i:i+step], truth[i:i+step])
        return ap.value
    def torchmetrics():
        ap = BinaryAveragePrecision(); ap.update(torch.from_numpy(prob), torch.from_numpy(truth).int()); return float(ap.compute())
    contenders = {'StreamingAP': ours, 'scikit-learn': lambda: average_precision_score(truth, prob), 'torchmetrics': torchmetrics}
    ours()
    memory = {k: peak(f)[1] for k, f in contenders.items()} # warms up as well
    found = rounds(contenders, scale, 1, warm=False)
    return f'{n:,} pixels, 2 % landslide', table(found, n/1e6, 'Mpx/s', **{'MB more': memory, 'error': {k: abs(v-found.results['scikit-learn']) for k, v in found.results.items()}})

@duel
def chips(scale):
    "Chips of 128 x 128 x (2 moments, VV and VH, truth) into a training batch of 16: pre-cut chips and their loader against xbatcher on a Zarr cube and torchgeo on its raster (goals: 100 x and 50 x; waiting for data under 5 % of an epoch)."
    import xarray as xr, torch
    import xbatcher
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.chips import ChipStack
    from landslide_nb.learn.data import finetune_dls
    from landslide_nb.learn.networks import build_model
    from landslide_nb.mapping.runfolder import write_cog
    n, size, bs = max(1024, int(2048*scale**.5)//128*128), 128, 16
    with tempfile.TemporaryDirectory() as d:
        pair = make_pair(open_cube(cube_on_disk(d, n, passes=1)), passes=1)
        pair = pair.assign(landslides=(('y', 'x'), (np.random.default_rng(0).random((n, n)) < 1e-4).astype('uint8')))
        pair[['vv', 'vh', 'landslides']].drop_attrs().chunk(moment=1, y=512, x=512).to_zarr(f'{d}/pair.zarr', zarr_format=2)
        bands = xr.concat([pair[c].isel(moment=m, drop=True).load() for m in (0, 1) for c in ('vv', 'vh')] + [pair.landslides.astype('float32')], 'band').rio.write_crs(32654)
        write_cog(bands, f'{d}/pair.tif', ['a', 'b', 'c', 'd', 'truth'])
        cut = split_chips(make_chips(pair.load(), f'{d}/chips'), by='random')
        stack, dls, order = ChipStack(cut), finetune_dls(cut, epoch_chips=1024), np.random.default_rng(0)
        def ours():
            rows = order.permutation(len(stack))
            for i in range(0, len(rows)-bs+1, bs): torch.stack([stack.pair(r) for r in rows[i:i+bs]]), torch.stack([stack.truth(r) for r in rows[i:i+bs]])
            return len(rows)//bs*bs
        def ours_loader(): return sum(len(b[0]) for b in dls.train)
        lazy = xr.open_zarr(f'{d}/pair.zarr')
        def peer_xbatcher(take=48):
            got, some = 0, []
            for b in xbatcher.BatchGenerator(lazy, dict(y=size, x=size)):
                some.append((torch.from_numpy(np.stack([b[c].values for c in ('vv', 'vh')])), torch.from_numpy(b.landslides.values))); got += 1
                if len(some) == bs: [torch.stack(o) for o in zip(*some)]; some = []
                if got == take: break
            return got
        class Pair(RasterDataset): filename_glob, is_image = 'pair.tif', True
        data = Pair(d)
        def peer_torchgeo(take=48): return sum(len(b['image']) for b in DataLoader(data, batch_size=bs, sampler=RandomGeoSampler(data, size=size, length=take), collate_fn=stack_samples))
        found = rounds({'landslide_nb, bare batches': ours, 'landslide_nb, loader with normalisation, change and turns': ours_loader, 'xbatcher, bare batches': peer_xbatcher, 'torchgeo, bare batches': peer_torchgeo}, scale)
        step = training_steps(torch.randn(bs, 3, 2, size, size), {'ours': build_model('unet', stage=2)})['ours']
        step(); t = time.process_time(); [step() for _ in range(5)]; each = (time.process_time()-t)/5/bs
        waits = {k: f'{c/(c+each):.1%}' for k in found.cpu if (c := median(found.cpu[k])/found.results[k])}
        return f'{n} x {n} px; Zarr chunks and raster blocks of 512; waiting: the share of an epoch of the default network that is spent on loading, in CPU time', table(found, found.results, 'chips/s', waiting=waits)

def training_steps(x, nets, dtype=None, lr=1e-3):
    "{name: function that makes one step of forward, loss, backward and AdamW on a batch}; x (B, moments, channels, H, W); a network that takes images gets (B, moments*channels, H, W); dtype: of the forward pass, None: float32"
    import torch
    from landslide_nb.learn.losses import BCEDice
    y, loss = (torch.rand(x.shape[0], *x.shape[-2:]) < .02).to(torch.uint8), BCEDice()
    def one(net):
        opt = torch.optim.AdamW(net.train().parameters(), lr)
        def run():
            with torch.autocast('cpu', dtype) if dtype else nullcontext(): out = logits_of(net, x)
            loss(out.float(), y).backward(); opt.step(); opt.zero_grad(); return len(x)
        return run
    return {k: one(net) for k, net in nets.items()}

def logits_of(net, x):
    "Logits (B, H, W) of a network of ours or of a peer, from (B, 3, channels, H, W)"
    config = getattr(net, 'config', None)
    return net(x[:, :config['moments']]) if isinstance(config, dict) and 'moments' in config else net(x.flatten(1, 2))[:, 0]

def networks():
    "The contenders of training: the default network, smp's and fastai's ResNet-34 U-Nets with random weights, the published stage 2"
    import segmentation_models_pytorch as smp
    from fastai.vision.models import resnet34
    from fastai.vision.learner import create_unet_model
    from landslide_nb.learn.networks import build_model
    return {'landslide_nb unet': lambda: build_model('unet', stage=2), 'smp.Unet resnet34': lambda: smp.Unet('resnet34', encoder_weights=None, in_channels=6, classes=1),
        'fastai create_unet_model resnet34': lambda: create_unet_model(resnet34, 1, (128, 128), pretrained=False, n_in=6), 'published stage 2': lambda: build_model('published', stage=2, moments=2)}

@duel
def training_step(scale):
    "A training step (forward, loss, backward, AdamW) at 128 x 128, batch 16: the default network against smp's and fastai's ResNet-34 U-Nets and the published stage 2 (goals: 2 x, 8 x, 15 x)."
    import torch
    from landslide_nb.learn.models import fast_dtype
    low, rows = fast_dtype('cpu'), []
    for dtype in (None, low) if low else (None,):
        steps = training_steps(torch.randn(16, 3, 2, 128, 128), {k: make() for k, make in networks().items()}, dtype)
        rows += [{**row, '': row['']+', bfloat16'*bool(dtype)} for row in table(rounds(steps, scale), 16, 'chips/s')]
    return f'float32, and bfloat16 (as the package trains) where the processor computes it itself, both for all; {torch.get_num_threads()} threads, random weights', rows

@duel
def learning(scale):
    "What the same number of chips teaches: every network of `training_step` from random weights, the same chips in the same order, one-cycle AdamW (highest rate 1e-3 for peers and the published network, as its authors had it; the package's own for its network), scored on spatially separate test chips of the embedded demo_a (goal: no lower AUPRC than each)."
    import torch
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.core import set_seed
    from landslide_nb.data.pair import make_pair
    from landslide_nb.learn.data import finetune_dls
    from landslide_nb.learn.models import normalize_pair
    from landslide_nb.learn.finetune import FINETUNE_RATE, truth_of
    from landslide_nb.learn.losses import BCEDice
    from landslide_nb.learn.metrics import average_precision
    from landslide_nb.learn.models import fast_dtype
    from landslide_nb.data.simulate import simulate_event
    seen, seeds, loss, low = max(64, int(512*scale)//16*16), range(3 if scale > .5 else 1), BCEDice(), fast_dtype('cpu')
    makers = networks(); ours = next(iter(makers))
    rate = {k: FINETUNE_RATE if k == ours else 1e-3 for k in makers}
    with tempfile.TemporaryDirectory() as d:
        chips = split_chips(make_chips(make_pair(simulate_event('demo_a', size=2048)), f'{d}/chips'), block=4)
        rows = chips.rows('test')
        truth = truth_of(chips, rows)
        def learn(name, batches, test, seed):
            set_seed(seed); net = makers[name](); opt = torch.optim.AdamW(net.train().parameters(), rate[name])
            plan, t = torch.optim.lr_scheduler.OneCycleLR(opt, rate[name], total_steps=len(batches)), time.process_time()
            for x, y in batches:
                with torch.autocast('cpu', low) if low else nullcontext(): out = logits_of(net, x)
                loss(out.float(), y).backward(); opt.step(); opt.zero_grad(); plan.step()
            t = time.process_time()-t
            with torch.inference_mode(): out = torch.cat([logits_of(net.eval(), o) for o in test.split(16)])
            return average_precision(out, truth, scores=True), t
        found = {k: [] for k in makers}
        for seed in seeds:
            dls = finetune_dls(chips, epoch_chips=seen, seed=seed)
            batches = [tuple(o.as_subclass(torch.Tensor) for o in b) for b in dls.train]
            test = normalize_pair(torch.stack([dls.chips.pair(int(r)) for r in rows]), dls.stats, True)
            for k in makers: found[k].append(learn(k, batches, test, seed))
        baseline = float((truth == 1).sum()/(truth != 255).sum())
        return f'{seen} chips seen ({len(dls.rows["train"])} training chips), {len(rows)} test chips, {len(seeds)} seed{"s" if len(seeds) > 1 else ""}; {"bfloat16" if low else "float32"} for all; a map of zeros scores {baseline:.3f}', [
            {'': k, 'AUPRC': sum(ap for ap, _ in f)/len(f), 'each seed': ', '.join(f'{ap:.3f}' for ap, _ in f), 'highest rate': rate[k], 'training, CPU s': sum(t for _, t in f)/len(f)} for k, f in found.items()]

@duel
def scene_inference(scale):
    "A scene through the same network: `predict_scene` against its untiled pass and other tilers; a pixel is wrong if its probability differs by more than 1e-5 from the untiled pass (goals: 0.85 of untiled, faster than every peer, 0 wrong pixels)."
    import torch
    from monai.inferers import sliding_window_inference
    from tiler import Merger, Tiler
    from terratorch.tasks.tiled_inference import tiled_inference
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    from landslide_nb.learn.models import normalize_pair
    from landslide_nb.learn.calibration import calibrate
    from landslide_nb.mapping.runfolder import write_cog
    from landslide_nb.mapping.scene import predict_scene, stack_pair
    n, (net, meta) = max(768, int(2048*scale**.5)), model()
    with tempfile.TemporaryDirectory() as d:
        source = cube_on_disk(d, n)
        read = lambda: make_pair(open_cube(source))
        def write(prob): write_cog(like.copy(data=np.asarray(prob, 'float32')), f'{d}/p.tif', ['probability']); return np.asarray(prob)
        like = read().vv.isel(moment=0, drop=True)
        def stacked(): return normalize_pair(torch.from_numpy(stack_pair(read(), ['vv', 'vh']).values)[None], STATS, True)
        flat = lambda x: x.flatten(1, 2)
        def back(x): return net(x.unflatten(1, (3, 2)))[:, None]
        @torch.inference_mode()
        def untiled(): return write(calibrate(net(stacked())[0].numpy(), {}))
        def ours(): return write(predict_scene(read(), net, meta, progress=False).values)
        @torch.inference_mode()
        def peer_monai(overlap=.25, mode='gaussian'): return write(calibrate(sliding_window_inference(flat(stacked()), 512, 1, back, overlap=overlap, mode=mode)[0, 0].numpy(), {}))
        @torch.inference_mode()
        def peer_tiler():
            x = flat(stacked())[0].numpy()
            tiler = Tiler(x.shape, (6, 512, 512), overlap=(0, 128, 128), channel_dimension=0)
            merger = Merger(Tiler((1, *x.shape[1:]), (1, 512, 512), overlap=(0, 128, 128), channel_dimension=0), window='overlap-tile')
            for i, t in tiler(x): merger.add(i, back(torch.from_numpy(np.ascontiguousarray(t))[None])[0].numpy())
            return write(calibrate(merger.merge(unpad=True)[0], {}))
        @torch.inference_mode()
        def peer_terratorch(): return write(calibrate(tiled_inference(back, flat(stacked()), out_channels=1, crop=512, stride=384, delta=8, average_patches=True, blend_overlaps=True, verbose=False)[0, 0].numpy(), {}))
        contenders = {'landslide_nb': ours, 'untiled pass': untiled, 'monai, 25 % gaussian': peer_monai, 'tiler, 25 % overlap-tile': peer_tiler, 'terratorch, 25 % blended': peer_terratorch}
        found = rounds(contenders, scale)
        off = {k: abs(v-found.results['untiled pass']) for k, v in found.results.items()}
        return f'{n} x {n} px from Zarr (3+3 passes) to a COG, random weights, {torch.get_num_threads()} threads', table(found, n*n/1e6, 'Mpx/s', **{'wrong pixels': {k: int((v > 1e-5).sum()) for k, v in off.items()}, 'largest difference': {k: float(v.max()) for k, v in off.items()}})

PNG = Path(__file__).parents[2]/'shared'/'data'/'png_2024'/'png_landslide_2024_track9.nc' # kept beside the project, not in it

def as_opera_takes(dm, bands):
    "Linear power as a release of `distmetrics` takes it: newer ones leave the logit to their caller"
    from scipy.special import logit
    if not hasattr(dm, 'ALLOWED_MODELS'): return bands
    return [logit(band) if isinstance(band, np.ndarray) else [logit(one) for one in band] for band in bands]

@duel
def map_without_labels(scale):
    "A map without labels of the real 2024 cube (Papua New Guinea), repeated to 1,000 px squared: the default network, the log-ratio and the standardized change against OPERA's transformer and Mahalanobis metrics (`distmetrics`) (goal: 10 x the transformer)."
    import distmetrics as dm
    from landslide_nb.data.cube import cube_event, open_cube
    from landslide_nb.data.baselines import standardized_change
    from landslide_nb.data.pair import log_ratio, make_pair, with_ratio_std
    from landslide_nb.mapping.scene import predict_scene
    if not PNG.exists(): raise ImportError('the real cube is kept beside the project and is absent here')
    n, (net, meta) = max(100, int(1000*scale**.5)//50*50), model()
    small = open_cube(PNG)
    many = {c: (('time', 'y', 'x'), np.tile(small[c].values, (1, n//50, n//50))) for c in ('vv', 'vh')}
    cube = small.drop_vars(['vv', 'vh', 'landslides', 'y', 'x']).assign(many).assign_coords(y=small.y.values[0]-30*np.arange(n), x=small.x.values[0]+30*np.arange(n))
    event = cube_event(small)
    before, after = np.flatnonzero(event.is_pre(cube.time.values)), np.flatnonzero(event.is_post(cube.time.values))
    pre, post = [list(cube[c].values[before]) for c in ('vv', 'vh')], [cube[c].values[after[0]] for c in ('vv', 'vh')]
    smaller = 'transformer_optimized' # OPERA's own faster one, in newer releases
    transformers = {'transformer': dm.load_transformer_model()}
    if smaller in getattr(dm, 'ALLOWED_MODELS', ()): transformers[smaller.replace('_', ', ')] = dm.load_transformer_model(smaller)
    def scored(network): return lambda: dm.compute_transformer_zscore(network, *as_opera_takes(dm, pre), *as_opera_takes(dm, post))
    pair = lambda: make_pair(cube, event, passes=None)
    contenders = {'landslide_nb network': lambda: predict_scene(pair(), net, meta, progress=False).values, 'landslide_nb log-ratio': lambda: log_ratio(pair()).score.values,
        'landslide_nb standardized change': lambda: standardized_change(with_ratio_std(pair(), cube)).values,
        'distmetrics Mahalanobis': lambda: dm.compute_mahalonobis_dist_2d(*pre, *post), **{f'distmetrics {name}': scored(network) for name, network in transformers.items()}}
    for k, f in contenders.items():
        if 'transformer' not in k: f() # which takes minutes: one round, without a warm-up
    found = rounds(contenders, scale, 1, warm=False)
    return f'{n} x {n} px, {len(before)} passes before; distmetrics {version("distmetrics")}; ours use all {len(after)} after, the peers the first', table(found, n*n/1e6, 'Mpx/s')

@duel
def opening_and_pairing(scale):
    "From a Zarr cube to a pair written window by window, against the straightforward xarray way (select, `mean`, `load`) (goal: 3 x faster, a tenth of the memory)."
    import xarray as xr
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    n = max(1024, int(4096*scale**.5))
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/'small').mkdir()
        source, small = cube_on_disk(d, n), cube_on_disk(f'{d}/small', 512)
        def ours(source=source, n=n):
            pair = make_pair(open_cube(source))
            return sum(float(np.nansum(pair[['vv', 'vh']].isel(y=slice(i, i+1024), x=slice(j, j+1024)).to_array().values[0, 0, 0])) for i in range(0, n, 1024) for j in range(0, n, 1024))
        def straightforward(source=source, n=n):
            ds = xr.open_zarr(source).load()
            pre, post = ds.where(ds.time <= np.datetime64('2018-09-05'), drop=True).mean('time'), ds.where(ds.time >= np.datetime64('2018-09-07'), drop=True).mean('time')
            return float((10*np.log10(xr.concat([pre, post], 'moment'))).vv[0, 0].sum())
        contenders = {'landslide_nb, windows': ours, 'xarray, load': straightforward}
        for f in contenders.values(): f(small, 512) # imports are neither's memory
        memory = {k: peak(f)[1] for k, f in contenders.items()}
        return f'{n} x {n} px, 3+3 passes, chunks of 512', table(rounds(contenders, scale), n*n/1e6, 'Mpx/s', **{'MB more': memory})

@duel
def growth(scale):
    "How cost grows: a whole scene into tiles on disk at 1, 4 and 16 times the area, and an epoch of chips at 1, 4 and 16 times their number (goal: linear within 10 %). `of each further one`: what a pixel or chip more than in the row above costs, in CPU time, relative to the first such step; it leaves out what every scene costs once."
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    from landslide_nb.learn.data import finetune_dls
    from landslide_nb.mapping.scene import predict_tiles
    n, (net, meta) = max(512, int(2048*scale**.5)//256*256), model(width=4, levels=3)
    with tempfile.TemporaryDirectory() as d:
        for s in (n, 2*n, 4*n): (Path(d)/str(s)).mkdir(); cube_on_disk(f'{d}/{s}', s, passes=1)
        def scene(s):
            def f():
                with tempfile.TemporaryDirectory(dir=d) as work: predict_tiles(make_pair(open_cube(f'{d}/{s}/cube.zarr'), passes=1), net, meta, f'{work}/t', progress=False)
            return f
        def epoch(s):
            pair = make_pair(open_cube(f'{d}/{s}/cube.zarr'), passes=1)
            pair = pair.assign(landslides=(('y', 'x'), (np.random.default_rng(0).random((s, s)) < 1e-4).astype('uint8')))
            chips = split_chips(make_chips(pair, f'{d}/{s}/chips'), by='random')
            dls = finetune_dls(chips, epoch_chips=len(chips))
            return lambda: sum(len(b[0]) for b in dls.train)
        found = rounds({f'{s} x {s} px': scene(s) for s in (n, 2*n, 4*n)} | {f'{(s//128)**2} chips': epoch(s) for s in (n, 2*n, 4*n)}, scale)
    rows, amount = [], {f'{s} x {s} px': s*s/1e6 for s in (n, 2*n, 4*n)} | {f'{(s//128)**2} chips': (s//128)**2 for s in (n, 2*n, 4*n)}
    each = lambda times, k: median(times[k])/amount[k]
    for k in amount:
        kind = [o for o in amount if o.split()[-1] == k.split()[-1]]
        first, i = kind[0], kind.index(k)
        further = lambda i: (median(found.cpu[kind[i]])-median(found.cpu[kind[i-1]]))/(amount[kind[i]]-amount[kind[i-1]])
        rows.append({'': k, 'Mpx/s or chips/s': 1/each(found.seconds, k), 'cost of each, relative': each(found.seconds, k)/each(found.seconds, first), 'in CPU time': each(found.cpu, k)/each(found.cpu, first), 'of each further one': further(i)/further(1) if i else None})
    return 'small network (width 4, 3 levels)', rows

@duel
def memory(scale):
    "Peak memory of `map_pair` (map, rasters, polygons, report) on scenes made up while they are read (goal: it does not grow with the scene)."
    rows = []
    for n, every in ((2048, 1), (8192, 1), (20480, 16)) if scale > .5 else ((512, 1), (2048, 1), (4096, 16)):
        with tempfile.TemporaryDirectory() as d:
            out = subprocess.run([sys.executable, '-W', 'ignore', '-c', f'from benchmarks.duels import map_made_up; map_made_up({n}, {every}, {d!r})'], cwd=Path(__file__).parents[1], capture_output=True, text=True)
        if out.returncode: raise RuntimeError(out.stderr[-500:])
        rows.append(json.loads(out.stdout.splitlines()[-1]))
    return MEMORY, rows

MEMORY = 'each in a process of its own; small network (width 4, 3 levels), noise as data, nothing above the threshold; of the largest scene only one block of 16 holds data, the rest is no data, so that it takes minutes and not an hour'

def map_made_up(n, every, folder):
    "Map a scene of n x n px whose blocks are made up when they are read, one of `every` with data; print time and memory as JSON"
    import resource
    import dask.array as da, xarray as xr, rioxarray
    from landslide_nb.mapping.mapping import map_pair
    noise, (net, meta) = np.random.default_rng(0).normal(-12, 2, (2, 1536, 1536)).astype('float32'), model(width=4, levels=3)
    def block(block_info=None):
        (_, i, j), (_, h, w) = block_info[None]['chunk-location'], block_info[None]['chunk-shape']
        if (5*i + 3*j) % every: return np.full((2, h, w), np.nan, 'float32')
        return noise[:, 37*i % 512:, 53*j % 512:][:, :h, :w]
    def pair(n):
        chunks = (2,), da.core.normalize_chunks(1024, (n,))[0], da.core.normalize_chunks(1024, (n,))[0]
        band = lambda: (('moment', 'y', 'x'), da.map_blocks(block, chunks=chunks, dtype='float32', meta=np.empty((0, 0, 0), 'float32')))
        return xr.Dataset(dict(vv=band(), vh=band()), dict(moment=['pre', 'post'], y=4.7e6-10*np.arange(n), x=4e5+10*np.arange(n))).rio.write_crs('EPSG:32654')
    peak_mb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3
    model_of = net, dict(meta, calibration=dict(scale=1., bias=-60.)) # nothing above the threshold: every polygon that is kept is a row of the result
    map_pair(pair(256), model_of, f'{folder}/small', progress=False) # imports, fonts
    base, t, c = peak_mb(), time.perf_counter(), time.process_time()
    map_pair(pair(n), model_of, f'{folder}/run', progress=False)
    print(json.dumps({'': f'{n} x {n} px', 'blocks with data': f'1 of {every}' if every > 1 else 'all', 's': time.perf_counter()-t, 'CPU s': time.process_time()-c, 'Mpx/s': n*n/1e6/(time.perf_counter()-t), 'MB before': base, 'MB more at the peak': peak_mb()-base, 'MB of the pair': n*n*16/1e6}))

def bare_passes(seconds):
    "Passes a second of the default network over a tile of 384 px, in this process with one thread"
    import torch
    torch.set_num_threads(1)
    net, x = model()[0], torch.randn(1, 3, 2, 384, 384)
    with torch.inference_mode():
        net(x)
        n, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds: net(x); n += 1
    return n/(time.perf_counter() - start)

def ceiling(seconds=8):
    "How much more two processes do than one when they do nothing but the network's passes: what two cores of this machine can give at all"
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    def rate(n):
        with ProcessPoolExecutor(n, get_context('spawn')) as pool: return sum(pool.map(bare_passes, [seconds]*n))
    return rate(2)/rate(1)

@duel
def cluster(scale):
    "The same map on a dask cluster of one and of two one-thread workers (goal: 1.7 times, the same result), beside two bare processes that do nothing but the network's passes."
    from distributed import Client, LocalCluster
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    from landslide_nb.mapping.scene import predict_scene
    n, (net, meta) = max(768, int(4096*scale**.5)), model()
    with tempfile.TemporaryDirectory() as d:
        pair, seconds, maps = make_pair(open_cube(cube_on_disk(d, n))), {1: [], 2: []}, {}
        for i in range(4 if scale > .5 else 2):
            for workers in (2, 1):
                with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, local_directory=d) as c, Client(c):
                    predict_scene(pair.isel(y=slice(0, 128), x=slice(0, 128)), net, meta, progress=False) # workers import torch
                    t = time.perf_counter(); maps[workers] = predict_scene(pair, net, meta, progress=False).values
                    if i: seconds[workers].append(time.perf_counter()-t)
        bare = sorted(ceiling() for _ in range(3))
        ratios = {w: sorted(a/b for a, b in zip(seconds[1], seconds[w])) for w in (1, 2)}
        return f'{n} x {n} px', [{'': f'{w} worker{"s" if w > 1 else ""}', 'Mpx/s': n*n/1e6/median(seconds[w]), 'speed-up': median(ratios[w]), 'range': f'{ratios[w][0]:.2f} - {ratios[w][-1]:.2f}', 'of the fastest rounds': min(seconds[1])/min(seconds[w]), 'largest difference': float(abs(maps[1]-maps[w]).max())} for w in (1, 2)] + [{'': '2 bare processes', 'speed-up': median(bare), 'range': f'{bare[0]:.2f} - {bare[-1]:.2f}'}]
