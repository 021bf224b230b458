"""Ways of pretraining side by side: how stage 1 pools its evidence, how stage 2 uses it, and pretraining without any label.

    python -m benchmarks.pretraining --folder FOLDER [--seeds 3] [--budget 10]

Stage 1 learns on demo_a, stage 2 on a few chips of demo_b: the region on which choices are made; `landslide-nb experiment` reports on demo_a.
FOLDER keeps chips and finished trainings; the same command continues. About 25 minutes on one core.
"""
import argparse, json, math
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from scipy import stats as st
from torch import nn

from landslide_nb.core import atomic, set_seed
from landslide_nb.learn.data import finetune_dls, pretrain_dls
from landslide_nb.study.experiment import LOOKS
from landslide_nb.learn.finetune import continued_learner, finetune_learner, frozen_learner, predict_chips, truth_of
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.networks import EvidenceNet, PRIOR_LOGIT, UNet, pool_evidence
from landslide_nb.learn.pretrain import pretrain_learner
from landslide_nb.study.protocol import pretrain_chips, quick_spec, region_chips

# --- how the evidence of the pixels becomes the decision of a chip

def mean_logit(evidence):
    "The mean of the pixels' logits"
    return evidence.flatten(1).mean(1) - PRIOR_LOGIT

def top_percent(evidence):
    "The mean of the highest percent of the pixels' logits"
    most = max(1, evidence[0].numel()//100)
    return evidence.flatten(1).topk(most).values.mean(1)

def noisy_or(evidence):
    "A chip holds a landslide unless no pixel does"
    s = nn.functional.softplus(evidence.float()).flatten(1).sum(1).clamp(1e-6, 80)
    return s + torch.log(-torch.expm1(-s))

class Pooled(EvidenceNet):
    "The default stage-1 network with another pooling"
    def __init__(self, pool, **size):
        "The default network, and what pools its evidence"
        super().__init__(**size)
        self.pool = pool

    def forward(self, x):
        "(B, M, C, H, W) normalised -> (B,) logits"
        return self.pool(self.evidence(x))

class Attention(EvidenceNet):
    "Pixels weighted by learned attention (Ilse et al. 2018)"
    def __init__(self, **size):
        "The default network, and a layer that weighs its pixels"
        super().__init__(**size)
        self.gate = nn.Conv2d(self.n_features, 1, 1)

    def forward(self, x):
        "(B, M, C, H, W) normalised -> (B,) logits"
        f = self.features(x)
        evidence = self.head(f)
        weights = self.gate(f).flatten(2).softmax(2)
        return (evidence*weights.view(len(f), 1, *f.shape[2:])).flatten(1).sum(1)

class Forecast(nn.Module):
    "Without labels: predict the pass after from the pass before; the features are those of the forecast and what it missed"
    def __init__(self, width=16, levels=4):
        "The trunk of the default network, and a layer that forecasts VV and VH"
        super().__init__()
        self.trunk = UNet(2, width, levels)
        self.head = nn.Conv2d(width, 2, 1)
        self.n_features = width + 2
        self.config = dict(arch='unet', stage=1, channels=2, moments=3)

    def features(self, x):
        "(B, M, C, H, W) normalised -> (B, n_features, H, W)"
        before = x[:, 0].as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last)
        f = self.trunk(before)
        return torch.cat([f, x[:, 1] - self.head(f)], 1)

    def forward(self, x):
        "(B, M, C, H, W) normalised -> (B, 2, H, W), what the forecast missed"
        return self.features(x)[:, -2:]

POOLS = {
    'log of the mean odds (default)': partial(Pooled, pool_evidence),
    'mean of the logits': partial(Pooled, mean_logit),
    'highest percent': partial(Pooled, top_percent),
    'noisy or': partial(Pooled, noisy_or),
    'attention': Attention,
}
DEFAULT = next(iter(POOLS))

def stage1_dls(chips, spec, seed):
    "Batches of the chips of one or more regions"
    n = sum(len(region.rows('train')) for region in chips)
    return pretrain_dls(chips, looks=LOOKS, epoch_chips=min(spec.pretrain_epoch_chips, n), seed=seed)

def stage1(make, chips, spec, seed=0):
    "A stage-1 network trained on chip labels of one or more regions"
    learn = pretrain_learner(stage1_dls(chips, spec, seed), seed=seed)
    set_seed(seed)
    net = make(channels=2, moments=3)
    net.config = learn.model.config
    learn.model = net
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(spec.pretrain_epochs)
    return learn.model.eval()

def forecaster(chips, spec, seed=0):
    "A network that forecasts the pass after, trained on the same chips without their labels"
    dls = stage1_dls(chips, spec, seed)
    set_seed(seed)
    net = Forecast()
    opt = torch.optim.AdamW(net.parameters(), 1e-2)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, spec.pretrain_epochs*len(dls.train))
    for _ in range(spec.pretrain_epochs):
        for x, _ in dls.train:
            loss = nn.functional.smooth_l1_loss(net(x.as_subclass(torch.Tensor)), torch.zeros(()))
            opt.zero_grad()
            loss.backward()
            opt.step()
            plan.step()
    return net.eval()

def stage1_trainer(there, here, spec):
    "A function that gives the stage-1 network of a name of `WAYS`, trained once, in memory"
    makes = {name: partial(stage1, make, [there], spec) for name, make in POOLS.items()}
    makes['both'] = partial(stage1, POOLS[DEFAULT], [there, here], spec)
    makes['forecast'] = partial(forecaster, [there], spec)
    @cache
    def trained(name):
        "The network of a name; None: none"
        return None if name is None else makes[name]()
    return trained

# --- how stage 2 uses it

def fit_plain(learn, epochs):
    "All layers alike"
    learn.fit_one_cycle(epochs)

def fit_slow_trunk(learn, epochs):
    "The trunk ten times slower than the head"
    learn.fit_one_cycle(epochs, slice(learn.lr/10, learn.lr))

def fit_unfreezing(learn, epochs):
    "As fastai does it: the last group first, then all"
    learn.freeze()
    learn.fit_one_cycle(epochs//3)
    learn.unfreeze()
    learn.fit_one_cycle(epochs - epochs//3, slice(learn.lr/10, learn.lr))

NONE = 'no pretraining'
WAYS = { # way -> name of the stage-1 network, how stage 2 takes it, how it is fitted
    NONE: (None, 'frozen', fit_plain),
    **{f'frozen, {name}': (name, 'frozen', fit_plain) for name in POOLS},
    'frozen, both regions': ('both', 'frozen', fit_plain),
    'frozen, forecast of the pass after (no labels)': ('forecast', 'frozen', fit_plain),
    'full': (DEFAULT, 'full', fit_plain),
    'full, trunk ten times slower': (DEFAULT, 'full', fit_slow_trunk),
    'full, unfrozen step by step': (DEFAULT, 'full', fit_unfreezing),
}

def stage2(chips, start, how, fit, spec, budget, seed):
    "Test AUPRC of stage 2 on a few chips"
    dls = finetune_dls(chips, budget, seed=seed, bs=8, epoch_chips=spec.epoch_chips)
    if start is None: learn = finetune_learner(dls, seed=seed)
    elif how == 'frozen': learn = frozen_learner(dls, start, seed=seed)
    else: learn = continued_learner(dls, start, seed=seed)
    with learn.no_bar(), learn.no_logging(): fit(learn, spec.epochs)
    rows = chips.rows('test')
    return average_precision(predict_chips(learn, chips, rows), truth_of(chips, rows), scores=True)

# --- all ways

def kept(path, way, seed, measure):
    "The row of a finished training; if there is none, it is measured and kept"
    if not path.exists():
        row = dict(way=way, seed=seed, auprc=measure())
        with atomic(path) as tmp: tmp.write_text(json.dumps(row))
    return json.loads(path.read_text())

def chips_of_both(spec, folder):
    "The chips of stage 2 of demo_b, and those of stage 1 of demo_a and demo_b"
    target, source = (region_chips(name, spec, folder) for name in ('demo_b', 'demo_a'))
    size = spec.pretrain_size
    there = pretrain_chips(source, folder/'chips'/f'demo_a_{size}', size)
    here = pretrain_chips(target, folder/'chips'/f'demo_b_{size}', size)
    return target, there, here

def all_rows(target, trained, spec, args):
    "A row a way and seed, printed as soon as it is known"
    def measure(way, seed):
        "Test AUPRC of a way"
        start, how, fit = WAYS[way]
        return stage2(target, trained(start), how, fit, spec, args.budget, seed)
    rows = []
    for way in WAYS:
        for seed in range(args.seeds):
            path = args.folder/'ways'/f'{args.budget}_{seed}_{way.replace(" ", "_")}.json'
            rows.append(kept(path, way, seed, partial(measure, way, seed)))
            print(rows[-1], flush=True)
    return rows

def page(rows, chips, budget, seeds):
    "The table of all ways; `chips` were tested on"
    t = pd.DataFrame(rows).pivot(index='way', columns='seed', values='auprc').loc[list(WAYS)]
    gain = t.sub(t.loc[NONE])
    half = st.t.ppf(.975, seeds - 1)*gain.std(axis=1, ddof=1)/math.sqrt(seeds)
    lines = [
        f'\nAUPRC on {chips} test chips of demo_b, {budget} labelled chips, {seeds} seeds; '
        'difference paired, 95 % t interval over seeds\n',
        '| stage 1 | AUPRC | each seed | against no pretraining |', '|---|---:|---|---:|']
    for way, values in t.iterrows():
        mean, each = gain.loc[way].mean(), ', '.join(f'{value:.3f}' for value in values)
        against = '' if way == NONE else f'{mean:+.3f} [{mean - half[way]:+.3f}, {mean + half[way]:+.3f}] '
        lines.append(f'| {way} | {values.mean():.3f} | {each} | {against}|')
    return '\n'.join(lines)

def main():
    "Train and test all ways, and print their table"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--budget', type=int, default=10)
    p.add_argument('--scene', type=int, default=2688)
    args = p.parse_args()
    torch.set_num_threads(1)
    spec = quick_spec('demo_b', scene=args.scene)
    target, there, here = chips_of_both(spec, args.folder)
    rows = all_rows(target, stage1_trainer(there, here, spec), spec, args)
    print(page(rows, len(target.rows('test')), args.budget, args.seeds))

if __name__ == '__main__': main()
