"""What does a second track add to a map?

    python -m benchmarks.tracks simulate --scenes FOLDER
    python -m benchmarks.tracks fit --scenes FOLDER --out tracks.safetensors
    python -m benchmarks.tracks score --scenes FOLDER --weights tracks.safetensors --out tracks.csv

`simulate`: random regions, as the shipped weights learned from (other seeds), seen from both orbit directions, with the same number of passes
and the same filter in both; each is mapped by the shipped weights from either direction. `fit`: the network that fuses (notebook `tracks`) learns
from 300 regions; 100 others say how often the model's own threshold keeps to few false alarms. `score`: 100 further random regions and twelve scenes each of the two
demo regions, which nothing was fitted to or chosen by. About 25 minutes on one core; scenes that are there are used.
"""
import argparse, json
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from scipy.special import expit, logit
from torch import nn
from tqdm import tqdm

from landslide_nb.core import atomic
from landslide_nb.data.landscape import DIRECTIONS, POLARISATIONS, REGIONS
from landslide_nb.data.pair import make_pair
from landslide_nb.data.simulate import simulate_event
from landslide_nb.learn.calibration import FALSE_ALARMS
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.learn.uncertainty import area_interval
from landslide_nb.mapping.areas import errors_here
from landslide_nb.mapping.nulls import null_pairs
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights.base import _outlines, despeckle, random_preparation, random_region
from landslide_nb.weights.tracks import LEAST, TRACK_VIEW, TrackSet, track_view

SIDE = 256                     # of a scene, px
FIT = range(500_000, 500_300)  # seeds of the regions that the network learns from
CHOOSE = range(500_300, 500_400) # of those that say how often the model's threshold keeps to few false alarms
HELD = range(600_000, 600_100) # of those that are scored
DEMO = range(600_000, 600_012) # of each demo region
MINUTES = 2                    # of processor time, for the fit
RATE = 3e-3                    # highest learning rate
BATCH = 8                      # crops a step
CROP = 96                      # side of a crop, px
UNKNOWN = .2                   # share of crops in which the facing is not known
BEFORE = 9                     # passes before the event, as many as `random_preparation` draws at most
CHIP = 128                     # side of a chip in which false alarms are counted, px
FEW = 20                       # landslide pixels, below which a scene ranks nothing

def names(seeds, demo=()):
    "(kind, seed) of scenes"
    return [('random', seed) for seed in seeds] + [(region, seed) for seed in demo for region in REGIONS]

def scene_path(folder, kind, seed):
    "Where a scene is kept"
    return Path(folder)/f'{kind}_{seed}.npz'

def tracks_of(kind, seed):
    "The passes of each direction, the truth, and the region of a scene"
    region = random_region(seed) if kind == 'random' else REGIONS[kind]
    how_made = random_preparation(seed)
    cube = simulate_event(region, seed, SIDE, passes=(BEFORE, 4))
    for pol in POLARISATIONS:
        cube[pol].values[:] = [despeckle(power, how_made.speckle_filter, how_made.weight) for power in cube[pol].values]
    passes = slice(0, BEFORE + how_made.after)
    own = [cube.isel(time=cube.orbit.values == orbit).isel(time=passes) for orbit in DIRECTIONS]
    truth = _outlines(region, how_made, cube.landslides.values).astype('uint8')
    return own, how_made, truth, region

def null_logit(cube, pair, model):
    "The logit that two in a thousand pixels of the latest null pair reach; NaN without one"
    nulls = null_pairs(cube, pair)
    if not nulls: return np.nan
    prob = predict_scene(nulls[-1], *model, progress=False)
    return float(logit(np.quantile(prob.clip(LEAST, 1 - LEAST), .998)))

def latest_pair(cube, before):
    "The pair of a track, of the last passes before the event and all after it"
    latest = cube.isel(time=slice(BEFORE - before, None))
    return make_pair(latest, passes=None).assign(dem=cube.dem)

def write_scene(folder, kind, seed, model):
    "Simulate a scene and look at it from either direction"
    path = scene_path(folder, kind, seed)
    if path.exists(): return
    own, how_made, truth, region = tracks_of(kind, seed)
    pairs = [latest_pair(cube, how_made.before) for cube in own]
    views = [track_view(pair, predict_scene(pair, *model, progress=False)).values for pair in pairs]
    null = [null_logit(cube, pair, model) for cube, pair in zip(own, pairs)]
    fields = region.plot_px != REGIONS['demo_a'].plot_px
    with atomic(path) as tmp, open(tmp, 'wb') as f:
        np.savez_compressed(f, views=np.stack(views).astype('f2'), truth=truth, null=null, fields=fields)

def read_scene(folder, kind, seed):
    "(track, channel, y, x) float32 views, (y, x) truth, null logits, whether it has wide fields"
    with np.load(scene_path(folder, kind, seed)) as scene:
        return scene['views'].astype('f4'), scene['truth'], scene['null'], bool(scene['fields'])

def simulate(args):
    "Make all scenes that are not there"
    torch.set_num_threads(1)
    model = load_model('base')
    Path(args.scenes).mkdir(parents=True, exist_ok=True)
    wanted = names([*FIT, *CHOOSE, *HELD], DEMO)
    for kind, seed in tqdm(wanted, desc='simulate', unit='scene'): write_scene(args.scenes, kind, seed, model)

def draw_crop(views, truth, rng):
    "A crop of a scene and its truth, turned and mirrored, perhaps without the facing"
    y, x = rng.integers(0, SIDE - CROP + 1, 2)
    rows, cols = slice(y, y + CROP), slice(x, x + CROP)
    turn, mirror = rng.integers(4), rng.integers(2)*2 - 1
    crop = np.rot90(views[:, :, rows, cols], turn, (2, 3))[..., ::mirror].astype('f4')
    if rng.random() < UNKNOWN: crop[:, TRACK_VIEW.index('facing')] = 0
    return crop, np.rot90(truth[rows, cols], turn)[:, ::mirror].astype('f4')

def draw_crops(views, truth, rng):
    "A batch of crops, turned and mirrored"
    drawn = [draw_crop(views[k], truth[k], rng) for k in rng.integers(0, len(views), BATCH)]
    crops, targets = zip(*drawn)
    return torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(targets))

def rate(done):
    "The learning rate after a share of the time: warm up, then along a cosine"
    warm = min(1, done/.02)
    return RATE*warm*(.02 + .49*(1 + np.cos(np.pi*done)))

def take_step(net, optimiser, crops, targets):
    "One step of the fit; its loss"
    loss = nn.functional.binary_cross_entropy_with_logits(net(crops), targets)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()

def train(views, truth, minutes, seed=0):
    "Fit the network"
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng, net = np.random.default_rng(seed), TrackSet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    start, steps = process_time(), 0
    def share_done():
        "How much of the time is gone"
        return (process_time() - start)/60/minutes
    done = share_done()
    while done < 1:
        for group in optimiser.param_groups: group['lr'] = rate(done)
        loss = take_step(net, optimiser, *draw_crops(views, truth, rng))
        steps += 1
        if steps % 500 == 0: print(f'{steps} steps, {done:.0%}, loss {loss:.4f}', flush=True)
        done = share_done()
    return net.eval(), steps

def together(net, views):
    "What the network says of all tracks"
    with torch.inference_mode(): return net(torch.from_numpy(np.ascontiguousarray(views))[None])[0].numpy()

def mean_logit(views):
    "The mean of the tracks' log odds"
    return views[:, 0].mean(0)

def chips(images):
    "Scenes as chips of 128 px, and the scene of each"
    n, k = len(images), SIDE//CHIP
    cut = np.stack(images).reshape(n, k, CHIP, k, CHIP).swapaxes(2, 3).reshape(-1, CHIP, CHIP)
    return cut, np.repeat(np.arange(n), k*k)

def fit(args):
    "Fit the network that fuses, and write it with what other regions say of it"
    scenes = [read_scene(args.scenes, *name) for name in names(FIT)]
    views = np.stack([scene[0] for scene in scenes])
    truth = np.stack([scene[1] for scene in scenes])
    net, steps = train(views.astype('f2'), truth, args.minutes)
    facts = dict(scenes=len(FIT), steps=steps, command='python -m benchmarks.tracks fit', **facts_of(net, args.scenes))
    save_file(net.half().state_dict(), str(args.out), metadata=dict(fusion=json.dumps(facts)))
    print(facts)

def keeps(images, truth, threshold):
    "In which share of scenes few landslide-free pixels reach a threshold"
    p, scene = chips(images)
    free = chips(truth)[0].max((1, 2)) == 0
    alarms = [(p[free & (scene == s)] >= threshold).mean() for s in np.unique(scene[free])]
    return float(np.mean(np.array(alarms) <= FALSE_ALARMS))

def facts_of(net, folder):
    "What other regions say of the fit: expected over true area, and how often the model's threshold keeps to few false alarms"
    threshold = load_model('base')[1]['calibration']['threshold']
    views, truth, *_ = zip(*(read_scene(folder, *name) for name in names(CHOOSE)))
    fused = [expit(together(net, one)) for one in views]
    alone = [keeps([expit(one[k, 0]) for one in views], truth, threshold) for k in (0, 1)]
    true = sum((one == 1).sum() for one in truth)
    kept = dict(keeps=keeps(fused, truth, threshold), keeps_alone=alone)
    return dict(other_scenes=len(CHOOSE), expected_over_true=float(np.sum(fused)/true), **kept)

def null_weighted(views, null):
    "Log odds weighted by how little each track sees where nothing slid; the plain mean without null pairs"
    weights = expit(-np.nan_to_num(null))
    return np.tensordot(weights/weights.sum(), views[:, 0], 1)

def stacked(views):
    "Higher and lower logit, as they are and smoothed, (pixel, feature)"
    high, low = views[:, 0].max(0), views[:, 0].min(0)
    images = [high, low] + [gaussian_filter(image, sigma) for image in (high, low) for sigma in (1, 2.5)]
    return np.stack(images, -1).reshape(-1, len(images))

def logistic(folder):
    "A logistic regression on the logits of both tracks and their neighbours"
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    features, truths = [], []
    for name in names(FIT):
        views, truth, *_ = read_scene(folder, *name)
        k = rng.choice(truth.size, 2000, replace=False)
        features.append(stacked(views)[k])
        truths.append(truth.ravel()[k] == 1)
    return LogisticRegression(max_iter=300).fit(np.concatenate(features), np.concatenate(truths))

def covers(prob, truth, calibration):
    "Whether the interval of a scene's expected area holds the true one"
    record, _ = errors_here(calibration, xr.DataArray(prob, dims=('y', 'x')), {})
    low, high = area_interval(prob.sum(), prob.size, record)
    return bool(low <= (truth == 1).sum() <= high)

def without_heights(views):
    "Views without the facing, for which heights are needed"
    return np.concatenate([views[:, :3], 0*views[:, 3:]], 1)

def rule_maps(views, null, net, regression):
    "{rule: scores} of a scene"
    return dict(
        mean=mean_logit(views),
        highest=views[:, 0].max(0),
        null_weighted=null_weighted(views, null),
        logistic=(stacked(views) @ regression.coef_[0]).reshape(views.shape[-2:]),
        network=together(net, views),
        network_without_heights=together(net, without_heights(views)),
    )

def areas(views, fused, truth, calibration):
    "True and expected landslide pixels, together and of one track, and whether the intervals hold the true number"
    p, alone = expit(fused), expit(views[:, 0])
    return dict(
        true=int((truth == 1).sum()),
        expected=float(p.sum()),
        expected_alone=float(alone.sum()/2),
        covered=covers(p, truth, calibration),
        covered_alone=np.mean([covers(one, truth, calibration) for one in alone]),
    )

def score_scene(folder, name, net, regression, calibration):
    "AUPRC of each rule in a scene, and how far the expected area is off; areas also of scenes without landslides"
    views, truth, null, fields = read_scene(folder, *name)
    few = (truth == 1).sum() < FEW
    def ap(score):
        "Its AUPRC, NaN where there are too few landslides"
        return np.nan if few else average_precision(score.astype('f4'), truth, scores=True)
    alone = {f'{orbit} alone': ap(view[0]) for orbit, view in zip(DIRECTIONS, views)}
    maps = rule_maps(views, null, net, regression)
    rules = {rule: ap(score) for rule, score in maps.items()}
    of_one_track = np.mean([ap(together(net, views[k:k+1])) for k in (0, 1)])
    scene = dict(kind='wide fields' if fields else name[0], seed=name[1])
    measured = dict(alone, better=max(alone.values()), **rules, network_of_one_track=of_one_track)
    return scene | measured | areas(views, maps['network'], truth, calibration)

def paired(table, rule, draws=2000, seed=0):
    "Ratio of the mean AUPRC of a rule to that of the better track, with a 95 % interval over regions"
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(table), (draws, len(table)))
    a, b = table[rule].to_numpy(), table.better.to_numpy()
    low, high = np.quantile(a[rows].mean(1)/b[rows].mean(1), [.025, .975])
    return f'{a.mean()/b.mean() - 1:+.1%} [{low - 1:+.1%}, {high - 1:+.1%}]'

def read_net(path):
    "The network that `fit` wrote, in float32"
    net = TrackSet()
    net.load_state_dict({name: values.float() for name, values in load_file(path).items()})
    return net.eval()

def score(args):
    "Score all rules in scenes that nothing was fitted to or chosen by"
    net, regression = read_net(args.weights), logistic(args.scenes)
    calibration = load_model('base')[1]['calibration']
    wanted = tqdm(names(HELD, DEMO), desc='score', unit='scene')
    table = pd.DataFrame([score_scene(args.scenes, name, net, regression, calibration) for name in wanted])
    table.to_csv(args.out, index=False)
    say_scores(table)

ALONE = ['ascending alone', 'descending alone', 'better']
RULES = ['mean', 'highest', 'null_weighted', 'logistic', 'network', 'network_without_heights', 'network_of_one_track']

def say_kind(kind, whole):
    "Print what the table says of a kind of scenes"
    part = whole.dropna()
    means = ', '.join(f'{name} {part[name].mean():.3f}' for name in [*ALONE, *RULES])
    print(f'{kind} ({len(part)} scenes with landslides):', means)
    for rule in RULES:
        higher = (part[rule] >= part.better).mean()
        print(f'    {rule}: {paired(part, rule)} against the better track, higher in {higher:.0%}')
    true = whole.true.sum()
    fused, alone = whole.expected.sum()/true, whole.expected_alone.sum()/true
    print(f'    expected over true area: fused {fused:.2f}, one track {alone:.2f}; interval holds the true area: '
          f'fused {whole.covered.mean():.0%}, one track {whole.covered_alone.mean():.0%} of {len(whole)} scenes')

def say_scores(table):
    "Print what the table says"
    for kind, whole in [*table.groupby('kind'), ('all', table)]: say_kind(kind, whole)

def main():
    "Do what the command line says"
    parser = argparse.ArgumentParser('benchmarks.tracks')
    commands = parser.add_subparsers(required=True)
    for run in (simulate, fit, score):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument('--scenes', required=True)
        if run is fit: command.add_argument('--minutes', type=float, default=MINUTES)
        if run is score: command.add_argument('--weights', required=True)
        if run is not simulate: command.add_argument('--out', required=True)
    args = parser.parse_args()
    args.run(args)

if __name__ == '__main__': main()
