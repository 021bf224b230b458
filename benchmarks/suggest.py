"""Which chips teach most? Rules of `suggest_chips` against random chips, by real trainings that go on from the shipped weights.

`python -m benchmarks.suggest --folder FOLDER` can be stopped and continued: each training leaves a file. `--table` prints what is there.
`--events regions` takes five random regions in place of the embedded events, one a seed."""
import argparse, json, os, time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

EVENTS = 'demo_a', 'demo_b'
FIRST = 400_000 # seed of the first random region, far from those that the weights were trained and calibrated on
ENOUGH = dict(train=12, valid=4, test=8) # chips with landslides that a region has in each part
BUDGETS = 2, 5, 10, 20
HELD = 16  # validation chips, which choose how far to go from the shipped weights
TESTED = 80 # test chips

def event_chips(event, folder):
    "The chips of an event or of a random region, split in space, as of `landslide-nb experiment`"
    from landslide_nb.data.chips import make_chips
    from landslide_nb.study.protocol import quick_spec, region_chips
    from landslide_nb.weights.base import random_pair
    where, spec = folder/'chips'/event, quick_spec()
    if event.isdigit() and not where.exists(): make_chips(random_pair(int(event), 2048), where, size=spec.size, step=spec.size)
    return region_chips(event, spec, folder)

def region_names(folder, n):
    "The first random regions with enough landslides in each part"
    from landslide_nb.weights.base import random_region
    found, seed = [], FIRST
    while len(found) < n:
        if random_region(seed).contrast:
            chips = event_chips(str(seed), folder)
            if all(len(chips.rows(part, positive=True)) >= least for part, least in ENOUGH.items()): found.append(str(seed))
        seed += 1
    return found

def some_rows(chips, part, n):
    "Chips of a part, spread over it, half of them with landslides as far as there are"
    from landslide_nb.data.split import draw_budget
    return np.sort(draw_budget(chips, min(n, 2*len(chips.rows(part, positive=True))), 0, part))

def base_views(event, chips, folder, model='base'):
    "What the weights say of every chip: probabilities, and how far the eight views disagree"
    path = folder/f'{event}.{Path(model).stem}.npz'
    if path.exists(): return dict(np.load(path))
    import torch
    from landslide_nb.core import atomic
    from landslide_nb.learn.calibration import calibrate
    from landslide_nb.learn.models import dihedral, load_model, normalize_pair
    from landslide_nb.learn.networks import stack_moments
    net, meta = load_model(model)
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

def both_ends(learn):
    "All weights before a training, and those after it once it is over"
    from fastai.callback.core import Callback
    from landslide_nb.learn.training import weights_of
    ends = [weights_of(learn.model)]
    class Ends(Callback):
        order = learn.keep_best.order - 1 # before `KeepBlend` goes back
        def after_fit(self): # also after each of its validations
            if len(ends) == 1: ends.append(weights_of(self.model))
    learn.add_cb(Ends())
    return ends

def train(chips, rows, seed, args, held=None):
    "Go on from the weights with some chips; the learner, and all weights before and after"
    from landslide_nb.data.chips import ChipStack
    from landslide_nb.learn.data import BatchPlan, NormalizePair, TruthBlock, chip_dls
    from landslide_nb.learn.finetune import continued_learner
    from landslide_nb.learn.models import read_header
    stack, spec = ChipStack(chips), read_header(args.model)['input']
    plan = BatchPlan(8, args.chips, None, True, seed)
    norm = NormalizePair(spec['stats'], spec['change'])
    held = some_rows(chips, 'valid', HELD) if held is None else held
    dls = chip_dls(stack, dict(train=rows, valid=held), TruthBlock(stack), norm, plan)
    learn = continued_learner(dls, args.model, lr=args.lr, seed=seed)
    ends = both_ends(learn)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn, ends

def as_a_turn(learn, ends, budget):
    "The weights that `label_learner` keeps where no chip is left to check with"
    from landslide_nb.labelling.turn import BEFORE_WORTH
    from landslide_nb.learn.training import blend_weights
    learn.model.load_state_dict(blend_weights(*ends, budget/(budget + BEFORE_WORTH)))
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
    "One training and its scores: with the weights that held-out chips chose (auprc), and with those of a turn without any (turn)"
    start = time.time()
    rows = choose(rule, chips, seen, budget, seed) if budget else []
    tested = some_rows(chips, 'test', TESTED)
    facts = dict(event=event, rule=rule, budget=budget, seed=seed, model=Path(args.model).stem)
    if not budget:
        score = auprc(args.model, chips, tested)
        return dict(facts, auprc=score, turn=score)
    learn, ends = train(chips, rows, seed, args)
    facts['share'] = learn.keep_best.share
    facts['positive'] = int(chips.is_positive[rows].sum())
    facts['auprc'] = auprc(learn, chips, tested)
    return dict(facts, turn=auprc(as_a_turn(learn, ends, budget), chips, tested), seconds=round(time.time() - start, 1))

def plan(args, events):
    "Trials in order of what they tell: the two rules of the goal first"
    jobs = [(e, 'none', 0, 0) for e in events]
    regions = args.events == ['regions']
    pairs = list(enumerate(events)) if regions else [(seed, e) for seed in range(args.seeds) for e in events]
    for rules in (args.rules[:2], args.rules[2:]):
        jobs += [(e, rule, b, seed) for seed, e in pairs for b in args.budgets for rule in rules]
    return jobs

def found_in(folder, model):
    "A row a training with some weights; regions have one name, and their number is the seed"
    rows = [json.loads(p.read_text()) for p in sorted((folder/'trials').glob(f'*-{Path(model).stem}.json'))]
    found = pd.DataFrame(rows)
    return found.assign(place=found.event.where(~found.event.str.isdigit(), 'regions'))

def interval(values, decimals=3):
    "Mean and 95 % interval over seeds (t)"
    v = np.asarray(values, float)
    mean, step = v.mean(), student.ppf(.975, len(v) - 1)*v.std(ddof=1)/len(v)**.5 if len(v) > 1 else np.nan
    return f'{mean:+.{decimals}f} [{mean - step:+.{decimals}f}, {mean + step:+.{decimals}f}]'

def per_seed(found, places, score):
    "Mean over places: rows (rule, seed), columns budgets"
    some = found[found.place.isin(places) & (found.budget > 0)]
    wide = some.pivot_table(score, ['rule', 'seed'], ['budget', 'place'])
    return wide.T.groupby('budget').agg(lambda o: o.mean(skipna=False)).T # nan where a place is missing

def chips_needed(curve, goal):
    "How many chips reach a score, on straight lines over the logarithm of the number; nan: none of them does"
    budgets, values = np.log(curve.index.to_numpy(float)), curve.to_numpy()
    if values[0] >= goal: return float(curve.index[0])
    for k in range(1, len(values)):
        if values[k] >= goal:
            part = (goal - values[k - 1])/(values[k] - values[k - 1])
            return float(np.exp(budgets[k - 1] + part*(budgets[k] - budgets[k - 1])))
    return np.nan

def rows_of(table):
    "Lines of a table as markdown"
    table = table.reset_index()
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in [table.columns, ['---']*table.shape[1], *table.values])

def tables(found, places, score):
    "What is there: mean AUPRC by place, rule and budget; each rule less random at the same budget and at 20; chips needed"
    means = found[found.place.isin(places)].pivot_table(score, ['place', 'rule'], 'budget').round(3)
    counts = found[found.place.isin(places)].pivot_table('seed', ['place', 'rule'], 'budget', 'count')
    print(f'mean AUPRC ({score}), {counts.iloc[:, 1:].max().max():.0f} seeds at most\n{rows_of(means.fillna(""))}\n')
    each = per_seed(found, places, score)
    if 'random' not in each.index.get_level_values(0): return
    random = each.loc['random']
    lines = {}
    for rule in each.index.get_level_values(0).unique().drop('random'):
        less = (each.loc[rule] - random).dropna(how='all')
        lines[rule] = {f'{b} less {b} random': interval(less[b].dropna()) for b in less if len(less[b].dropna())}
        if {5, 20} <= set(each.columns): lines[rule]['5 less 20 random'] = interval((each.loc[rule][5] - random[20]).dropna())
    print(rows_of(pd.DataFrame(lines).T.rename_axis('rule')), '\n')
    for rule in lines:
        whole = each.loc[rule].dropna().index.intersection(random.dropna().index)
        print(rule, 'chips that reach 20 random ones, each seed:', [round(chips_needed(each.loc[rule, k], random.loc[k, 20]), 1) for k in whole])

@cache
def prepared(event, folder, model):
    "Chips of an event, and what the weights say of them"
    chips = event_chips(event, folder)
    return chips, base_views(event, chips, folder, model)

def main():
    p = argparse.ArgumentParser('python -m benchmarks.suggest', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights to go on from: base, or a file')
    p.add_argument('--events', type=lambda s: s.split(','), default=list(EVENTS), help='embedded events, or regions')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--budgets', type=lambda s: [int(o) for o in s.split(',')], default=list(BUDGETS))
    p.add_argument('--rules', type=lambda s: s.split(','), default=['random', 'turns', 'spread', 'area', 'cover', 'doubt', 'anywhere', 'views'])
    p.add_argument('--chips', type=int, default=256, help='chips a training passes')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--table', action='store_true')
    args = p.parse_args()
    places = ['regions'] if args.events == ['regions'] else args.events
    if args.table:
        for score in ('auprc', 'turn'): tables(found_in(args.folder, args.model), places, score)
        return
    (args.folder/'trials').mkdir(parents=True, exist_ok=True)
    events = region_names(args.folder, args.seeds) if places == ['regions'] else args.events
    for event, rule, budget, seed in plan(args, events):
        name = '-'.join(map(str, (event, rule, budget, seed, args.chips, args.lr, Path(args.model).stem)))
        path = args.folder/'trials'/f'{name}.json'
        if path.exists(): continue
        row = trial(event, rule, budget, seed, *prepared(event, args.folder, args.model), args)
        half = path.with_suffix('.half')
        half.write_text(json.dumps(row))
        os.replace(half, path)
        print(row, flush=True)

if __name__ == '__main__': main()
