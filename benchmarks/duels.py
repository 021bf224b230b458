"The duels: each calls the peer's own API on the same input in the same process, in turn, and returns its settings and one row a contender"
import tempfile, threading, time
from pathlib import Path
from statistics import median

import numpy as np

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
DUELS = {}

def duel(f): DUELS[f.__name__] = f; return f

def rounds(contenders, scale):
    "Seconds of each contender, taken in turn three times (once at small scale) after a warm-up round; returns {name: [seconds]} and {name: last result}"
    n = 3 if scale > .5 else 1
    seconds, results = {k: [] for k in contenders}, {}
    for i in range(n+1):
        for k, f in contenders.items():
            t = time.perf_counter(); results[k] = f(); t = time.perf_counter()-t
            if i: seconds[k].append(t)
    return seconds, results

def table(seconds, amount, unit, **more):
    "A row a contender: rate, and how many times faster the first (ours) is"
    ours = next(iter(seconds))
    rows = []
    for k, s in seconds.items():
        ratio = sorted(o/a for o, a in zip(s, seconds[ours]))
        rows.append({'': k, unit: amount/median(s), 'ours is faster by': None if k == ours else float(median(ratio)), 'range': '' if k == ours else f'{ratio[0]:.2f} - {ratio[-1]:.2f}', **{c: v.get(k) for c, v in more.items()}})
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
    from landslide_nb.models import build_model
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
    from landslide_nb.metrics import StreamingAP
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
    memory = {k: peak(f)[1] for k, f in contenders.items()}
    seconds, found = rounds(contenders, scale)
    return f'{n:,} pixels, 2 % landslide', table(seconds, n/1e6, 'Mpx/s', **{'MB more': memory, 'error': {k: abs(v-found['scikit-learn']) for k, v in found.items()}})

@duel
def chips(scale):
    "Chips of 128 x 128 x (2 moments, VV and VH) into a training batch: pre-cut chips and their loader against xbatcher on a Zarr cube and torchgeo on its rasters (goals: 100 x and 50 x)."
    import xarray as xr, torch
    import xbatcher
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler
    from landslide_nb.chips import make_chips, split_chips
    from landslide_nb.cube import make_pair, open_cube
    from landslide_nb.data import finetune_dls
    from landslide_nb.products import write_cog
    n, size = max(1024, int(2048*scale**.5)//128*128), 128
    with tempfile.TemporaryDirectory() as d:
        pair = make_pair(open_cube(cube_on_disk(d, n, passes=1)), passes=1)
        pair = pair.assign(landslides=(('y', 'x'), (np.random.default_rng(0).random((n, n)) < 1e-4).astype('uint8')))
        pair[['vv', 'vh', 'landslides']].drop_attrs().chunk(moment=1, y=512, x=512).to_zarr(f'{d}/pair.zarr', zarr_format=2)
        truth = pair.landslides.astype('float32')
        bands = xr.concat([pair[c].isel(moment=m, drop=True).load() for m in (0, 1) for c in ('vv', 'vh')] + [truth], 'band').rio.write_crs(32654)
        write_cog(bands, f'{d}/pair.tif', ['a', 'b', 'c', 'd', 'truth'])
        dls = finetune_dls(split_chips(make_chips(pair.load(), f'{d}/chips'), by='random'), epoch_chips=512)
        def ours(): return sum(len(b[0]) for b in dls.train)
        lazy = xr.open_zarr(f'{d}/pair.zarr')
        def peer_xbatcher(take=48):
            got = 0
            for b in xbatcher.BatchGenerator(lazy, dict(y=size, x=size)):
                torch.from_numpy(np.stack([b[c].values for c in ('vv', 'vh')])), torch.from_numpy(b.landslides.values); got += 1
                if got == take: return got
            return got
        class Pair(RasterDataset): filename_glob, is_image = 'pair.tif', True
        data = Pair(d)
        def peer_torchgeo(take=48): return sum(len(b['image']) for b in DataLoader(data, batch_size=16, sampler=RandomGeoSampler(data, size=size, length=take), collate_fn=stack_samples))
        contenders = {'landslide_nb': ours, 'xbatcher': peer_xbatcher, 'torchgeo': peer_torchgeo}
        seconds, found = rounds(contenders, scale)
        each = {k: [o/found[k] for o in s] for k, s in seconds.items()}
        return f'{n} x {n} px, batches of 16 with normalisation, change and dihedral (ours), bare batches (peers)', table(each, 1, 'chips/s')

@duel
def training_step(scale):
    "A training step (forward, loss, backward, AdamW) at 128 x 128, batch 16: the default network against smp's and fastai's ResNet-34 U-Nets and the published stage 2 (goals: 2 x, 8 x, 15 x). Speed only."
    import torch, segmentation_models_pytorch as smp
    from fastai.vision.models import resnet34
    from fastai.vision.learner import create_unet_model
    from landslide_nb.metrics import BCEDice
    from landslide_nb.models import build_model
    x, y, loss = torch.randn(16, 3, 2, 128, 128), (torch.rand(16, 128, 128) < .02).to(torch.uint8), BCEDice()
    def step(net, take):
        opt = torch.optim.AdamW(net.train().parameters(), 1e-3)
        def run():
            out = net(take); loss(out[:, 0] if out.ndim == 4 else out, y).backward(); opt.step(); opt.zero_grad(); return 16
        return run
    six, four = x.flatten(1, 2), x[:, :2].flatten(1, 2)
    contenders = {'landslide_nb unet': step(build_model('unet', stage=2), x), 'smp.Unet resnet34': step(smp.Unet('resnet34', encoder_weights=None, in_channels=6, classes=1), six),
        'fastai create_unet_model resnet34': step(create_unet_model(resnet34, 1, (128, 128), pretrained=False, n_in=6), six), 'published stage 2': step(build_model('published', stage=2, moments=2), x[:, :2])}
    seconds, _ = rounds(contenders, scale)
    return f'float32, {torch.get_num_threads()} threads, untrained weights', table(seconds, 16, 'chips/s')

@duel
def scene_inference(scale):
    "A scene through the same network: `predict_scene` against its untiled pass and other tilers; a pixel is wrong if its probability differs by more than 1e-5 from the untiled pass (goals: 0.85 of untiled, faster than every peer, 0 wrong pixels)."
    import torch
    from monai.inferers import sliding_window_inference
    from tiler import Merger, Tiler
    from terratorch.tasks.tiled_inference import tiled_inference
    from landslide_nb.cube import make_pair, open_cube
    from landslide_nb.data import normalize_pair
    from landslide_nb.calibration import calibrate
    from landslide_nb.products import write_cog
    from landslide_nb.scene import predict_scene, stack_pair
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
        seconds, found = rounds(contenders, scale)
        wrong = {k: int((abs(v-found['untiled pass']) > 1e-5).sum()) for k, v in found.items()}
        worst = {k: float(abs(v-found['untiled pass']).max()) for k, v in found.items()}
        return f'{n} x {n} px from Zarr (3+3 passes) to a COG, random weights, {torch.get_num_threads()} threads', table(seconds, n*n/1e6, 'Mpx/s', **{'wrong pixels': wrong, 'largest difference': worst})

@duel
def map_without_labels(scale):
    "A map without labels: the log-ratio and the network against OPERA's transformer and Mahalanobis metrics (`distmetrics`), on speckled passes (goal: 10 x the transformer)."
    import distmetrics as dm
    from landslide_nb.cube import make_pair, mock_cube
    from landslide_nb.scene import predict_scene
    n, (net, meta) = max(256, int(1000*scale**.5)), model()
    cube = mock_cube((n, n), passes=5)
    cube = __import__('landslide_nb.cube', fromlist=['open_cube']).open_cube(cube)
    down = cube.isel(time=np.flatnonzero(cube.orbit.values == 'descending'))
    pre = [list(down[c].values[:5]) for c in ('vv', 'vh')]
    post = [down[c].values[5] for c in ('vv', 'vh')]
    transformer = dm.load_transformer_model()
    contenders = {'landslide_nb': lambda: predict_scene(make_pair(cube, 'hokkaido', passes=None), net, meta, progress=False),
        'distmetrics Mahalanobis': lambda: dm.compute_mahalonobis_dist_2d(*pre, *post), 'distmetrics transformer': lambda: dm.compute_transformer_zscore(transformer, *pre, *post)}
    seconds, _ = rounds(contenders, scale)
    return f'{n} x {n} px, 5 passes before and 1 after (peers) or 5 (ours)', table(seconds, n*n/1e6, 'Mpx/s')

@duel
def opening_and_pairing(scale):
    "From a Zarr cube to a pair written window by window, against the straightforward xarray way (select, `mean`, `load`) (goal: 3 x faster, a tenth of the memory)."
    import xarray as xr
    from landslide_nb.cube import make_pair, open_cube
    n = max(1024, int(4096*scale**.5))
    with tempfile.TemporaryDirectory() as d:
        source = cube_on_disk(d, n)
        def ours():
            pair = make_pair(open_cube(source))
            return sum(float(np.nansum(pair[['vv', 'vh']].isel(y=slice(i, i+1024), x=slice(j, j+1024)).to_array().values[0, 0, 0])) for i in range(0, n, 1024) for j in range(0, n, 1024))
        def straightforward():
            ds = xr.open_zarr(source).load()
            pre, post = ds.where(ds.time <= np.datetime64('2018-09-05'), drop=True).mean('time'), ds.where(ds.time >= np.datetime64('2018-09-07'), drop=True).mean('time')
            return float((10*np.log10(xr.concat([pre, post], 'moment'))).vv[0, 0].sum())
        contenders = {'landslide_nb, windows': ours, 'xarray, load': straightforward}
        memory = {k: peak(f)[1] for k, f in contenders.items()}
        seconds, _ = rounds(contenders, scale)
        return f'{n} x {n} px, 3+3 passes, chunks of 512', table(seconds, n*n/1e6, 'Mpx/s', **{'MB more': memory})

@duel
def growth(scale):
    "How cost grows: a whole scene into tiles on disk at 1, 4 and 16 times the area (goal: linear within 10 %)."
    from landslide_nb.cube import make_pair, open_cube
    from landslide_nb.scene import predict_scene
    n, (net, meta) = max(512, int(1024*scale**.5)//256*256), model(width=4, levels=3)
    sizes = (n, 2*n, 4*n)
    with tempfile.TemporaryDirectory() as d:
        for s in sizes: (Path(d)/str(s)).mkdir(); cube_on_disk(f'{d}/{s}', s, passes=1)
        def run(s):
            def f():
                with tempfile.TemporaryDirectory(dir=d) as work: predict_scene(make_pair(open_cube(f'{d}/{s}/cube.zarr'), passes=1), net, meta, tile=512, progress=False, work=f'{work}/t')
            return f
        seconds, _ = rounds({f'{s} x {s} px': run(s) for s in sizes}, scale)
        first = median(seconds[f'{n} x {n} px'])/n**2
        return 'small network (width 4), 512 px tiles', [{'': f'{s} x {s} px', 'Mpx/s': s*s/1e6/median(seconds[f'{s} x {s} px']), 'cost a pixel, relative': median(seconds[f'{s} x {s} px'])/s**2/first} for s in sizes]

@duel
def cluster(scale):
    "The same map on a dask cluster of one and of two one-thread workers (goal: 1.7 times, the same result)."
    from distributed import Client, LocalCluster
    from landslide_nb.cube import make_pair, open_cube
    from landslide_nb.scene import predict_scene
    n, (net, meta) = max(768, int(2048*scale**.5)), model()
    with tempfile.TemporaryDirectory() as d:
        pair, seconds, maps = make_pair(open_cube(cube_on_disk(d, n))), {1: [], 2: []}, {}
        for i in range(4 if scale > .5 else 2):
            for workers in (2, 1):
                with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, local_directory=d) as c, Client(c):
                    predict_scene(pair.isel(y=slice(0, 128), x=slice(0, 128)), net, meta, progress=False) # workers import torch
                    t = time.perf_counter(); maps[workers] = predict_scene(pair, net, meta, tile=256, progress=False).values
                    if i: seconds[workers].append(time.perf_counter()-t)
        return f'{n} x {n} px, 256 px tiles', [{'': f'{w} workers', 'Mpx/s': n*n/1e6/median(seconds[w]), 'speed-up': median(seconds[1])/median(seconds[w]), 'largest difference': float(abs(maps[1]-maps[w]).max())} for w in (1, 2)]
