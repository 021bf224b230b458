"""A first map without any label, on real data: the shipped weights beside the log-ratio, the standardized change and OPERA's transformer.

    python -m benchmarks.first_map --data FOLDER [--model MODEL.safetensors]

FOLDER holds the real cube of the Mulitaka landslide (png_2024/png_landslide_2024_track9.nc) and series in which nothing
happened (opera_rtc_s1/*, png_2024/opera_rtc_pre_event). Nothing here is trained, tuned or chosen on them.
"""
import argparse, json, time
from pathlib import Path

import numpy as np
import pandas as pd

from landslide_nb.weights.base import despeckle
from landslide_nb.data.baselines import BASELINES, SIZES, baseline_score, baseline_title
from landslide_nb.data.pair import log_ratio, make_pair, with_ratio_std
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.place import settle_place
from landslide_nb.mapping.scene import predict_scene

SEASON = 60 # days without a pass that part two seasons

def peer(cube, event, posts):
    "OPERA's transformer (`distmetrics`): mean z-score over the posts, for both of its weight sets; None without the package"
    try: import distmetrics as dm
    except ImportError: return None
    pre, post = event.is_pre(cube.time.values), np.flatnonzero(event.is_post(cube.time.values))[:posts]
    before = [list(cube[c].values[pre]) for c in ('vv', 'vh')]
    out = {}
    for weights in ('latest', 'original'):
        model = dm.load_transformer_model(model_token=weights) if weights == 'original' else dm.load_transformer_model()
        z = [dm.compute_transformer_zscore(model, *before, cube.vv.values[k], cube.vh.values[k]).dist for k in post]
        out[f'transformer, {weights}'] = np.nanmean(z, 0)
    return out

def extra(meta): return [c for c in meta['input']['channels'] if c not in ('vv', 'vh')] # channels beside VV and VH that a model reads

def real_event(data, net, meta):
    "Average precision on the real landslide, from all passes and from the first pass after it"
    from landslide_nb.core import EVENTS
    cube, rows = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc'), []
    truth, event = cube.landslides.values, EVENTS['mulitaka']
    last = event.is_post(cube.time.values)
    for name, n in (('all passes', None), ('first pass after', 1)):
        some = cube if n is None else cube.isel(time=np.flatnonzero(~last | (np.cumsum(last) <= n)))
        pair = with_ratio_std(make_pair(some, 'mulitaka', passes=None, extra=extra(meta)), some)
        start = time.perf_counter(); prob = predict_scene(pair, net, meta, progress=False).values; took = time.perf_counter() - start
        scores = {'shipped weights': prob, '-dVH 5 x 5': -log_ratio(pair, size=5).dvh.values}
        scores |= {baseline_title(one, size): baseline_score(one, pair, size).values for one in BASELINES for size in SIZES}
        start = time.perf_counter(); other = peer(some, event, n or 99); theirs = time.perf_counter() - start
        rows += [dict(passes=name, predictor=k, auprc=average_precision(v, truth, scores=k != 'shipped weights')) for k, v in {**scores, **(other or {})}.items()]
        here = settle_place(some, pair, net, meta, progress=False)
        prob, t = predict_scene(pair, net, here, progress=False).values, here['calibration']['threshold']
        print(f"{name}: {prob[truth == 1].sum():.0f} of {truth.sum()} px expected inside the outline, {np.nansum(prob):.0f} in all; above the threshold {t:.2f} of this place {(prob[truth == 1] >= t).sum()} inside, {(prob[truth == 0] >= t).sum()} outside; ours {took:.2f} s" + (f', both transformers {theirs:.2f} s' if other else ''))
    return pd.DataFrame(rows).pivot(index='predictor', columns='passes', values='auprc')

def picture(data, net, meta, path):
    "The real landslide as each predictor sees it from the first pass after the event"
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt
    from landslide_nb.core import EVENTS
    cube, event = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc'), EVENTS['mulitaka']
    last = event.is_post(cube.time.values)
    cube = cube.isel(time=np.flatnonzero(~last | (np.cumsum(last) == 1)))
    pair = make_pair(cube, 'mulitaka', passes=None, extra=extra(meta))
    z = peer(cube, event, 1)
    panels = [('VV before (dB)', pair.vv[0], 'gray', -16, 0), ('VV after, first pass', pair.vv[1], 'gray', -16, 0), ('dVV - dVH, 5 x 5 (dB)', log_ratio(pair, size=5).score, 'RdBu_r', -6, 6)]
    if z: panels.append(('OPERA transformer (z)', z['transformer, original'], 'inferno', 0, 6))
    panels.append(('landslide_nb, no label', predict_scene(pair, net, meta, progress=False), 'inferno', 0, .6))
    fig, axes = plt.subplots(1, len(panels), figsize=(2.7*len(panels), 3), layout='constrained')
    for ax, (title, a, cmap, low, high) in zip(axes, panels):
        ax.imshow(a, cmap=cmap, vmin=low, vmax=high, interpolation='nearest'); ax.contour(cube.landslides, [.5], colors='cyan', linewidths=.9); ax.set(title=title, xticks=[], yticks=[])
    fig.savefig(path, dpi=70)

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

def false_alarms(data, net, meta):
    "Share of pixels above the threshold where nothing happened: the model's own, that of the place from the pair's own passes before, and from all there are before"
    rows, threshold = [], meta['calibration']['threshold']
    series = [*sorted((data/'opera_rtc_s1').iterdir()), data/'png_2024'/'opera_rtc_pre_event']
    for folder in series:
        for how in ('raw', 'despeckled'):
            if folder.name == 'opera_rtc_pre_event' and how == 'despeckled': continue # it is despeckled as it comes
            cube = open_cube(folder).load()
            if how == 'despeckled':
                for c in ('vv', 'vh'): cube[c].values[:] = [np.where(np.isnan(p), np.nan, despeckle(np.nan_to_num(p, nan=float(np.nanmedian(p))), 'tv', .2)) for p in cube[c].values]
            for kind, pre, post in quiet_pairs(cube):
                days = pd.DatetimeIndex(cube.time.values)
                some = cube.isel(time=[*pre, *post])
                pair = make_pair(some, (str(days[pre[-1]].date()), str((days[post[0]]).date())), passes=None, extra=extra(meta))
                p = predict_scene(pair, net, meta, progress=False).values
                p = p[~np.isnan(p)]
                row = dict(series=folder.name, images='despeckled' if 'pre_event' in folder.name else how, kind=kind, share=float((p >= threshold).mean()), expected=float(p.mean()))
                for name, past in dict(place=some, archive=cube.isel(time=[*range(pre[-1] + 1), *post])).items():
                    here = settle_place(past, pair, net, meta, progress=False)
                    q = predict_scene(pair, net, here, progress=False).values
                    q = q[~np.isnan(q)]
                    row |= {f'share_of_{name}': float((q >= here['calibration']['threshold']).mean()), f'expected_of_{name}': float(q.mean())}
                rows.append(row)
    return pd.DataFrame(rows)

def alarm_picture(data, net, meta, path):
    "Where a model raises false alarms: each land crop at its worst single pass within a season, as it comes"
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(2, 4, figsize=(11, 5.6), layout='constrained')
    for ax, folder in zip(axes.T, sorted((data/'opera_rtc_s1').iterdir())[1:]): # the first is the sea
        cube, worst = open_cube(folder).load(), (-1,)
        for kind, pre, post in quiet_pairs(cube):
            if kind != 'season, 1 after': continue
            days = [str(t)[:10] for t in cube.time.values]
            pair = make_pair(cube.isel(time=[*pre, *post]), (days[pre[-1]], days[post[0]]), passes=None)
            p = predict_scene(pair, net, meta, progress=False)
            if (share := float((p >= meta['calibration']['threshold']).mean())) > worst[0]: worst = share, days[post[0]], pair, p
        share, day, pair, p = worst
        ax[0].imshow(log_ratio(pair, size=3).score, cmap='RdBu_r', vmin=-6, vmax=6); ax[0].set_title(f'{folder.name[-10:]}, {day}', fontsize='medium')
        ax[1].imshow(p, cmap='inferno', vmin=0, vmax=1); ax[1].set_xlabel(f'{share:.1%} of pixels above {meta["calibration"]["threshold"]:.2f}')
        if share: ax[1].contour(p, [meta['calibration']['threshold']], colors='cyan', linewidths=.8)
    for a in axes.flat: a.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel('dVV - dVH, 3 x 3 (-6 to 6 dB)'); axes[1, 0].set_ylabel('landslide probability')
    fig.savefig(path, dpi=70)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, help='JSON file to write')
    p.add_argument('--picture', type=Path, help='PNG to draw of the real landslide')
    p.add_argument('--alarms', type=Path, help='PNG to draw of false alarms')
    args = p.parse_args()
    net, meta = load_model(args.model)
    event = real_event(args.data, net, meta)
    print(event.round(3).to_string())
    if args.picture: picture(args.data, net, meta, args.picture)
    if args.alarms: alarm_picture(args.data, net, meta, args.alarms)
    alarms = false_alarms(args.data, net, meta)
    for what, column in ((f"the model's threshold {meta['calibration']['threshold']:.2f}", 'share'), ('the threshold of the place, from the passes of the pair', 'share_of_place'), ('the threshold of the place, from all passes before', 'share_of_archive')):
        table = (100*alarms.pivot_table(index=['series', 'images'], columns='kind', values=column, aggfunc='max')).round(2)
        print(f"\nFalse alarms, % of pixels at {what}, worst of each series\n{table.to_string()}")
    if args.out: args.out.write_text(json.dumps(dict(event=event.to_dict(), alarms=alarms.to_dict('records')), indent=1))

if __name__ == '__main__': main()
