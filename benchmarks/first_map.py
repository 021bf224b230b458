"""A first map without any label, on real data: the shipped weights beside the log-ratio, the standardized change and OPERA's transformer.

    python -m benchmarks.first_map --data FOLDER [--model MODEL.safetensors]

FOLDER holds the real cube of the Mulitaka landslide (png_2024/png_landslide_2024_track9.nc) and series in which nothing
happened (opera_rtc_s1/*, png_2024/opera_rtc_pre_event). Nothing here is trained, tuned or chosen on them.
"""
import argparse, json, time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from landslide_nb.weights.base import despeckle
from landslide_nb.core import EVENTS
from landslide_nb.data.baselines import BASELINES, SIZES, baseline_score, baseline_title
from landslide_nb.data.pair import log_ratio, make_pair, with_ratio_std
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.place import settle_place
from landslide_nb.mapping.scene import predict_scene

SEASON = 60 # days without a pass that part two seasons
SHARES = { # what a threshold is taken from -> column of `false_alarms`
    "the model's threshold": 'share',
    'the threshold of the place, from the passes of the pair': 'share_of_place',
    'the threshold of the place, from all passes before': 'share_of_archive',
}

# --- the real images

def mulitaka_cube(data):
    "The real cube of the Mulitaka landslide"
    return open_cube(data/'png_2024'/'png_landslide_2024_track9.nc')

def with_passes_after(cube, n):
    "The cube of the Mulitaka landslide with all passes before it and the first n after it; None: all"
    if n is None: return cube
    after = EVENTS['mulitaka'].is_post(cube.time.values)
    return cube.isel(time=np.flatnonzero(~after | (np.cumsum(after) <= n)))

def land_crops(data):
    "Folders of the crops of California on land"
    return sorted((data/'opera_rtc_s1').iterdir())[1:] # the first is the sea

def days_of(cube):
    "The day of each pass, as text"
    return [str(time)[:10] for time in cube.time.values]

def smoothed(power, weight):
    "One pass smoothed by total variation; what is not known stays so"
    filled = np.nan_to_num(power, nan=float(np.nanmedian(power)))
    return np.where(np.isnan(power), np.nan, despeckle(filled, 'tv', weight))

def seasons(times):
    "Positions of the passes of each season"
    return np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) > np.timedelta64(SEASON, 'D')) + 1)

def quiet_pairs(cube):
    "(kind, pre, post) positions of passes between which nothing happened"
    parts = [s for s in seasons(cube.time.values) if len(s) >= 2]
    for s in parts:
        for posts in (1, 3):
            if len(s) > posts: yield f'season, {posts} after', s[:-posts][-4:], s[-posts:]
    for a, b in zip(parts, parts[1:]):
        for posts in (1, 3): yield f'year, {posts} after', a[-4:], b[:posts]

def pair_between(cube, pre, post, channels=()):
    "The pair of the passes at some positions before and after, with further channels"
    days = days_of(cube)
    return make_pair(cube.isel(time=[*pre, *post]), (days[pre[-1]], days[post[0]]), passes=None, extra=channels)

# --- what ranks pixels

def extra(meta):
    "Channels beside VV and VH that a model reads"
    return [c for c in meta['input']['channels'] if c not in ('vv', 'vh')]

def probability(pair, net, meta):
    "The map of a pair"
    return predict_scene(pair, net, meta, progress=False).values

def load_transformer(dm, weights):
    "OPERA's transformer with one of its two weight sets"
    return dm.load_transformer_model(model_token=weights) if weights == 'original' else dm.load_transformer_model()

def peer(cube, event, posts):
    "OPERA's transformer (`distmetrics`): mean z-score over the posts, for both of its weight sets; None without the package"
    try: import distmetrics as dm
    except ImportError: return None
    pre = event.is_pre(cube.time.values)
    post = np.flatnonzero(event.is_post(cube.time.values))[:posts]
    vv, vh = cube.vv.values, cube.vh.values
    before = list(vv[pre]), list(vh[pre])
    out = {}
    for weights in ('latest', 'original'):
        model = load_transformer(dm, weights)
        z = [dm.compute_transformer_zscore(model, *before, vv[k], vh[k]).dist for k in post]
        out[f'transformer, {weights}'] = np.nanmean(z, 0)
    return out

def plain_scores(pair):
    "{predictor: scores of each pixel} of those that learn nothing"
    scores = {'-dVH 5 x 5': -log_ratio(pair, size=5).dvh.values}
    for one, size in product(BASELINES, SIZES):
        scores[baseline_title(one, size)] = baseline_score(one, pair, size).values
    return scores

# --- the real landslide

def timed(work, *args):
    "What some work gives, and its seconds"
    start = time.perf_counter()
    done = work(*args)
    return done, time.perf_counter() - start

def words_of_place(prob, threshold, truth):
    "What a calibrated map says of the real landslide"
    inside, outside = prob[truth == 1], prob[truth == 0]
    return (f'{inside.sum():.0f} of {truth.sum()} px expected inside the outline, {np.nansum(prob):.0f} in all; '
            f'above the threshold {threshold:.2f} of this place '
            f'{(inside >= threshold).sum()} inside, {(outside >= threshold).sum()} outside')

def event_scores(cube, posts, net, meta):
    "{predictor: average precision} on the real landslide from the first passes after it (None: all), and a sentence"
    some, truth = with_passes_after(cube, posts), cube.landslides.values
    pair = with_ratio_std(make_pair(some, 'mulitaka', passes=None, extra=extra(meta)), some)
    prob, ours = timed(probability, pair, net, meta)
    others = plain_scores(pair)
    z, theirs = timed(peer, some, EVENTS['mulitaka'], posts or 99)
    found = {'shipped weights': average_precision(prob, truth, scores=False)}
    found |= {name: average_precision(score, truth, scores=True) for name, score in {**others, **(z or {})}.items()}
    here = settle_place(some, pair, net, meta, progress=False)
    words = words_of_place(probability(pair, net, here), here['calibration']['threshold'], truth)
    seconds = f'ours {ours:.2f} s' + (f', both transformers {theirs:.2f} s' if z else '')
    return found, f'{words}; {seconds}'

def real_event(data, net, meta):
    "Average precision on the real landslide, from all passes and from the first pass after it"
    cube, rows = mulitaka_cube(data), []
    for passes, posts in (('all passes', None), ('first pass after', 1)):
        found, words = event_scores(cube, posts, net, meta)
        rows += [dict(passes=passes, predictor=name, auprc=auprc) for name, auprc in found.items()]
        print(f'{passes}: {words}')
    return pd.DataFrame(rows).pivot(index='predictor', columns='passes', values='auprc')

def event_panels(cube, net, meta):
    "(title, image, colours, lowest, highest) of the real landslide as each predictor sees it"
    pair = make_pair(cube, 'mulitaka', passes=None, extra=extra(meta))
    z = peer(cube, EVENTS['mulitaka'], 1)
    panels = [
        ('VV before (dB)', pair.vv[0], 'gray', -16, 0),
        ('VV after, first pass', pair.vv[1], 'gray', -16, 0),
        ('dVV - dVH, 5 x 5 (dB)', log_ratio(pair, size=5).score, 'RdBu_r', -6, 6),
    ]
    if z: panels.append(('OPERA transformer (z)', z['transformer, original'], 'inferno', 0, 6))
    return [*panels, ('landslide_nb, no label', predict_scene(pair, net, meta, progress=False), 'inferno', 0, .6)]

def picture(data, net, meta, path):
    "The real landslide as each predictor sees it from the first pass after the event"
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    cube = with_passes_after(mulitaka_cube(data), 1)
    panels = event_panels(cube, net, meta)
    fig, axes = plt.subplots(1, len(panels), figsize=(2.7*len(panels), 3), layout='constrained')
    for ax, (title, image, colours, low, high) in zip(axes, panels):
        ax.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation='nearest')
        ax.contour(cube.landslides, [.5], colors='cyan', linewidths=.9)
        ax.set(title=title, xticks=[], yticks=[])
    fig.savefig(path, dpi=70)

# --- where nothing happened

def quiet_series(data):
    "(name, whether raw or despeckled, cube) of the series in which nothing happened"
    for folder in sorted((data/'opera_rtc_s1').iterdir()):
        yield folder.name, 'raw', open_cube(folder).load()
        cube = open_cube(folder).load()
        for band in ('vv', 'vh'): cube[band].values[:] = [smoothed(power, .2) for power in cube[band].values]
        yield folder.name, 'despeckled', cube
    folder = data/'png_2024'/'opera_rtc_pre_event'
    yield folder.name, 'despeckled', open_cube(folder).load() # as it comes

def above(p, threshold):
    "Share of the known pixels above a threshold, and their mean probability"
    known = p[~np.isnan(p)]
    return float((known >= threshold).mean()), float(known.mean())

def alarms_of_pair(cube, pre, post, net, meta):
    "Shares above the model's own threshold and above those of the place, from the pair's own passes before and from all"
    pair = pair_between(cube, pre, post, extra(meta))
    share, expected = above(probability(pair, net, meta), meta['calibration']['threshold'])
    row = dict(share=share, expected=expected)
    pasts = dict(place=[*pre, *post], archive=[*range(pre[-1] + 1), *post])
    for name, passes in pasts.items():
        here = settle_place(cube.isel(time=passes), pair, net, meta, progress=False)
        share, expected = above(probability(pair, net, here), here['calibration']['threshold'])
        row |= {f'share_of_{name}': share, f'expected_of_{name}': expected}
    return row

def false_alarms(data, net, meta):
    "A row a quiet pair: share of pixels above each threshold where nothing happened"
    rows = []
    for name, images, cube in quiet_series(data):
        for kind, pre, post in quiet_pairs(cube):
            rows.append(dict(series=name, images=images, kind=kind) | alarms_of_pair(cube, pre, post, net, meta))
    return pd.DataFrame(rows)

def alarm_tables(alarms, threshold):
    "The worst of each series at each threshold, as text"
    for what, column in SHARES.items():
        if column == 'share': what = f'{what} {threshold:.2f}'
        table = alarms.pivot_table(index=['series', 'images'], columns='kind', values=column, aggfunc='max')
        yield f'\nFalse alarms, % of pixels at {what}, worst of each series\n{(100*table).round(2).to_string()}'

def worst_pass(cube, net, meta):
    "(share above the threshold, day, pair, map) of the worst single pass within a season"
    found = []
    for kind, pre, post in quiet_pairs(cube):
        if kind != 'season, 1 after': continue
        pair = pair_between(cube, pre, post)
        p = predict_scene(pair, net, meta, progress=False)
        share = float((p >= meta['calibration']['threshold']).mean())
        found.append((share, days_of(cube)[post[0]], pair, p))
    return max(found, key=lambda one: one[0])

def draw_worst(axes, name, worst, threshold):
    "The change of a crop at its worst pass, and the map below it"
    share, day, pair, p = worst
    axes[0].imshow(log_ratio(pair, size=3).score, cmap='RdBu_r', vmin=-6, vmax=6)
    axes[0].set_title(f'{name[-10:]}, {day}', fontsize='medium')
    axes[1].imshow(p, cmap='inferno', vmin=0, vmax=1)
    axes[1].set_xlabel(f'{share:.1%} of pixels above {threshold:.2f}')
    if share: axes[1].contour(p, [threshold], colors='cyan', linewidths=.8)

def alarm_picture(data, net, meta, path):
    "Where a model raises false alarms: each land crop at its worst single pass within a season, as it comes"
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(2, 4, figsize=(11, 5.6), layout='constrained')
    for column, folder in zip(axes.T, land_crops(data)):
        worst = worst_pass(open_cube(folder).load(), net, meta)
        draw_worst(column, folder.name, worst, meta['calibration']['threshold'])
    for ax in axes.flat: ax.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel('dVV - dVH, 3 x 3 (-6 to 6 dB)')
    axes[1, 0].set_ylabel('landslide probability')
    fig.savefig(path, dpi=70)

def arguments():
    "The words of the command"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, help='JSON file to write')
    p.add_argument('--picture', type=Path, help='PNG to draw of the real landslide')
    p.add_argument('--alarms', type=Path, help='PNG to draw of false alarms')
    return p.parse_args()

def main():
    "Print the tables, and draw and write what is asked for"
    args = arguments()
    net, meta = load_model(args.model)
    event = real_event(args.data, net, meta)
    print(event.round(3).to_string())
    if args.picture: picture(args.data, net, meta, args.picture)
    if args.alarms: alarm_picture(args.data, net, meta, args.alarms)
    alarms = false_alarms(args.data, net, meta)
    for table in alarm_tables(alarms, meta['calibration']['threshold']): print(table)
    found = dict(event=event.to_dict(), alarms=alarms.to_dict('records'))
    if args.out: args.out.write_text(json.dumps(found, indent=1))

if __name__ == '__main__': main()
