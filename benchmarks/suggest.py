"""Which chips teach most? Rules of `suggest_chips` against random chips, by real trainings that go on from the shipped weights.

`python -m benchmarks.suggest --folder FOLDER` can be stopped and continued: each training leaves a file. `--table` prints what is there."""
import argparse, hashlib, json, time
from pathlib import Path

import numpy as np
import pandas as pd

EVENTS = 'demo_a', 'demo_b'
BUDGETS = 2, 5, 10, 20
HELD = 16  # validation chips, which choose how far to go from the shipped weights
TESTED = 80 # test chips

def event_chips(event, folder):
    "The chips of an event, split in space, as of `landslide-nb experiment`"
    from landslide_nb.study.protocol import quick_spec, region_chips
    return region_chips(event, quick_spec(event), folder)

def some_rows(chips, part, n):
    "Chips of a part, spread over it, half of them with landslides as far as there are"
    from landslide_nb.data.split import draw_budget
    return np.sort(draw_budget(chips, min(n, 2*len(chips.rows(part, positive=True))), 0, part))

def base_views(event, chips, folder):
    "What the shipped weights say of every chip: probabilities, and how far the eight views disagree"
    path = folder/f'{event}.views.npz'
    if path.exists(): return dict(np.load(path))
    import torch
    from landslide_nb.core import atomic
    from landslide_nb.learn.calibration import calibrate
    from landslide_nb.learn.models import dihedral, load_model, normalize_pair
    from landslide_nb.learn.networks import stack_moments
    net, meta = load_model('base')
    spec, found = meta['input'], []
    pixelwise = {k: v for k, v in meta['calibration'].items() if k != 'around'}
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        for row in range(len(chips)):
            pair = torch.from_numpy(np.array(chips.chips[row])).float()
            features = net.trunk(stack_moments(normalize_pair(pair[None], spec['stats'], spec['change'])))
            views = [net(normalize_pair(dihedral(pair, k)[None], spec['stats'], spec['change']))[0].float() for k in range(8)]
            sums = [float(torch.sigmoid(v).nansum()) for v in views]
            p = calibrate(views[0].numpy(), pixelwise)
            f = features[0].float().flatten(1)
            found.append(dict(expected=np.nansum(p), doubt=np.nansum(p*(1 - p)), views=np.std(np.log(np.array(sums) + 1)),
                              most=np.nanmax(p), embedding=torch.cat([f.mean(1), f.std(1)]).numpy()))
    out = {k: np.stack([o[k] for o in found]) for k in found[0]}
    with atomic(path) as tmp: np.savez(open(tmp, 'wb'), **out)
    return out

def known(chips, seen, rows):
    "What is known of some chips before anybody looks, as `outlook` says it of the chips of a map"
    from landslide_nb.labelling.suggest import Outlook, standardised
    images = np.stack([chips.chips[row] for row in rows]).astype('float32') # (n, moment, band, y, x)
    bands = np.concatenate([images[:, 0], images[:, 1] - images[:, 0]], 1)
    looks = [np.nanmean(bands, (2, 3)), np.nanstd(bands, (2, 3)), np.log(seen['expected'][rows] + 1)[:, None]]
    places = chips.table[['row', 'col']].to_numpy()[rows]/chips.size
    return Outlook(seen['expected'][rows], seen['doubt'][rows], places, standardised(np.concatenate(looks, 1)))

POOL = .8 # share of the training chips that a seed may choose from, as if each seed were another scene

def choose(rule, chips, seen, n, seed):
    "Chips of the training part by a rule; only `random` knows the truth: half of its chips hold a landslide"
    from landslide_nb.data.split import draw_budget
    from landslide_nb.labelling.suggest import CHIP_RULES, largest
    if rule == 'random': return draw_budget(chips, n, seed)
    rng = np.random.default_rng(seed)
    pool = rng.permutation(chips.rows('train'))
    pool = np.sort(pool[:round(POOL*len(pool))])
    if rule == 'views': order = largest(seen['views'][pool], n)
    else: order = CHIP_RULES['random' if rule == 'anywhere' else rule](known(chips, seen, pool), n, (), rng)
    return pool[np.array(order)]

def train(chips, rows, seed, chips_seen, lr):
    "Go on from the shipped weights with some chips"
    from landslide_nb.data.chips import ChipStack
    from landslide_nb.learn.data import BatchPlan, NormalizePair, TruthBlock, chip_dls
    from landslide_nb.learn.finetune import continued_learner
    from landslide_nb.learn.models import read_header
    stack, spec = ChipStack(chips), read_header('base')['input']
    plan = BatchPlan(8, chips_seen, None, True, seed)
    norm = NormalizePair(spec['stats'], spec['change'])
    dls = chip_dls(stack, dict(train=rows, valid=some_rows(chips, 'valid', HELD)), TruthBlock(stack), norm, plan)
    learn = continued_learner(dls, 'base', lr=lr, seed=seed)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn

def auprc(learn, chips, rows):
    "Average precision over all pixels of some chips, in bfloat16 as in training"
    import torch
    from landslide_nb.learn.finetune import model_and_meta, truth_of
    from landslide_nb.learn.metrics import average_precision
    from landslide_nb.learn.models import normalize_pair
    net, meta = model_and_meta(learn)
    spec, found = meta['input'], []
    for some in np.array_split(rows, len(rows)//8):
        pairs = normalize_pair(torch.from_numpy(chips.chips[some]).float(), spec['stats'], spec['change'])
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16): found.append(net(pairs).float())
    return average_precision(torch.cat(found).numpy(), truth_of(chips, rows).numpy(), scores=True)

def trial(event, rule, budget, seed, chips, seen, args):
    "One training and its score"
    start = time.time()
    rows = choose(rule, chips, seen, budget, seed) if budget else []
    tested = some_rows(chips, 'test', TESTED)
    if not budget: learn = 'base'
    else: learn = train(chips, rows, seed, args.chips, args.lr)
    positive = int(chips.is_positive[rows].sum()) if budget else 0
    return dict(event=event, rule=rule, budget=budget, seed=seed, auprc=auprc(learn, chips, tested), positive=positive,
                share=getattr(getattr(learn, 'keep_best', None), 'share', None), seconds=round(time.time() - start, 1))

def plan(args):
    "Trials in order of what they tell"
    jobs = [(e, 'none', 0, 0) for e in EVENTS]
    for seed in range(args.seeds):
        for event in EVENTS:
            jobs += [(event, 'random', b, seed) for b in args.budgets]
            jobs += [(event, rule, b, seed) for b in args.budgets for rule in args.rules]
    return jobs

def table(folder):
    rows = [json.loads(p.read_text()) for p in sorted((folder/'trials').glob('*.json'))]
    found = pd.DataFrame(rows)
    wide = found.groupby(['rule', 'budget', 'event']).auprc.agg(['mean', 'std', 'count']).round(3)
    return found, wide.unstack('event')

def main():
    p = argparse.ArgumentParser('python -m benchmarks.suggest', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--budgets', type=lambda s: [int(o) for o in s.split(',')], default=list(BUDGETS))
    p.add_argument('--rules', type=lambda s: s.split(','), default=['anywhere', 'area', 'doubt', 'views', 'cover', 'spread', 'turns'])
    p.add_argument('--chips', type=int, default=256, help='chips a training passes')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--table', action='store_true')
    args = p.parse_args()
    if args.table: print(table(args.folder)[1].to_string()); return
    (args.folder/'trials').mkdir(parents=True, exist_ok=True)
    sets = {e: event_chips(e, args.folder) for e in EVENTS}
    seen = {e: base_views(e, sets[e], args.folder) for e in EVENTS}
    for event, rule, budget, seed in plan(args):
        name = '-'.join(map(str, (event, rule, budget, seed, args.chips, args.lr)))
        path = args.folder/'trials'/f'{name}.json'
        if path.exists(): continue
        row = trial(event, rule, budget, seed, sets[event], seen[event], args)
        path.write_text(json.dumps(row))
        print(row, flush=True)

if __name__ == '__main__': main()
