#!/bin/bash
# Make every measured number and image of README.md and docs/ again, each with the command line that it is from.
#
#   tools/readme_numbers.sh list           every name with its commands, and how long they take on two CPU cores
#   tools/readme_numbers.sh NAME [NAME..]  run them, from the root of the repository, with biaslab installed (make demo)
#
# What is printed and written below runs/ and benchmarks/results/ is what the texts say; images are copied into docs/.
set -euo pipefail
cd "$(dirname "$0")/.."

commands() {
  case "$1" in
    readme)  # two minutes: README (three commands), docs/questions/does-my-pruner-survive.md, docs/overview.png
      cat <<'END'
biaslab fit-bias --model grounder --n 100 --out runs/readme/grounder.safetensors
biaslab evaluate --n 60 --layer 4 --keep 0.1 --methods none,random,fastv,divprune,d2pruner --profile runs/readme/grounder.safetensors --out runs/readme/k4-60
biaslab fit-bias --model grounder --n 300 --out runs/readme/p300.safetensors
python -m tools.readme_picture --profile runs/readme/p300.safetensors --out docs/overview.png
END
      ;;
    profile)  # one minute: docs/profile.png
      cat <<'END'
python -c 'import biaslab as bl; v = bl.load("grounder"); s = bl.calibration(v, "scenes", n=100); p = bl.MeanProfile().fit(bl.collect(v, s.images, prompt=s.prompts)); bl.figures.save(bl.ProfileDisplay.from_profile(p, layers=[1, 3, 9]), "runs/readme/profile")'
cp runs/readme/profile.png docs/profile.png
END
      ;;
    demo)  # five minutes: docs/results.md, docs/accuracy.png, docs/attention.png
      cat <<'END'
biaslab demo --out runs/demo
cp runs/demo/figures/acc50-keep.png docs/accuracy.png
cp runs/demo/figures/attention.png docs/attention.png
END
      ;;
    k4)  # half an hour: docs/results.md (1,002 expressions, three prune layers)
      cat <<'END'
biaslab fit-bias --model grounder --n 600 --out runs/readme/p600.safetensors
biaslab evaluate --model grounder --n 1002 --layer 2 --dtype bfloat16 --profile runs/readme/p600.safetensors --methods none,random,uniform,fastv,relative,divprune,d2pruner,d2pruner:pivots_suppress=true --out runs/k2-1002
biaslab evaluate --model grounder --n 1002 --layer 4 --dtype bfloat16 --profile runs/readme/p600.safetensors --methods none,random,uniform,fastv,relative,divprune,d2pruner,d2pruner:pivots_suppress=true --out runs/k4-1002
biaslab evaluate --model grounder --n 1002 --layer 5 --dtype bfloat16 --profile runs/readme/p600.safetensors --methods none,random,uniform,fastv,relative,divprune,d2pruner,d2pruner:pivots_suppress=true --out runs/k5-1002
biaslab figures runs/k2-1002 runs/k4-1002 runs/k5-1002 --out runs/readme/k
END
      ;;
    atlas)  # half an hour: docs/results.md (is it bias?), docs/questions/is-my-model-biased.md, docs/atlas/README.md, docs/atlas/card.md
      cat <<'END'
python tools/grounder_atlas.py
# writes docs/atlas/variance.png docs/atlas/heads.png docs/atlas/profile.png docs/atlas/reliability.png
# writes docs/atlas/dependence.png docs/atlas/probe.png docs/atlas/removal.png docs/atlas/attention.png
END
      ;;
    lookahead)  # two hours: docs/look-ahead.md (what the student learned) and its figures
      cat <<'END'
biaslab fit-bias --model grounder --estimator lookahead --n 3000 --maps runs/readme/la-maps --out runs/readme/la.safetensors
cp runs/readme/la-curve.png docs/look-ahead/curve.png
cp runs/readme/la-places.png docs/look-ahead/places.png
cp runs/readme/la-words.png docs/look-ahead/words.png
python -c 'from biaslab.scenes import scene; scene("validation", 18).image.save("runs/readme/three-sheep.png")'
biaslab prune runs/readme/three-sheep.png "the rightmost sheep" --model grounder --methods none,lookahead --keep 0.1 --profile runs/readme/la.safetensors --out runs/readme/sheep
cp runs/readme/sheep-relevance.png docs/look-ahead/relevance.png
biaslab fit-bias --model grounder --n 600 --out runs/readme/p600.safetensors
python -m benchmarks.lookahead --profile runs/readme/la.safetensors --positional runs/readme/p600.safetensors
END
      ;;
    bench)  # an hour: docs/costs.md, benchmarks/results
      cat <<'END'
make bench
END
      ;;
    pages)  # an hour, of make bench: docs/decoding.md, docs/pictures.md, docs/sweeps.md, docs/questions/what-does-it-save.md
      cat <<'END'
python -m benchmarks.decode
python -m benchmarks.pictures
python -m benchmarks.sweep
python -m benchmarks.expressions
END
      ;;
    observer)  # a minute: docs/observer.md (photographs of both embedded models, docs/observer-curve.png)
      cat <<'END'
python -m tools.observer_curve
biaslab evaluate --model observer --dataset biaslab/diagnostics/pictures/expressions.jsonl --columns image=image,expression=expression,box=xyxy:box --methods none --out runs/photographs
biaslab evaluate --model grounder --dataset biaslab/diagnostics/pictures/expressions.jsonl --columns image=image,expression=expression,box=xyxy:box --methods none --out runs/photographs-grounder
END
      ;;
    heads)  # ten minutes: docs/heads.md
      cat <<'END'
biaslab heads --model grounder --criterion quality,localization,auroc,ablation,ippro --n 120 --batch-size 16 --out runs/readme/heads
biaslab fit-bias --model grounder --heads all --n 60 --maps runs/readme/heads-maps --out runs/readme/heads.safetensors
biaslab fit-bias --model grounder --estimator localization_heads --layers 0-3 --n 100 --out runs/readme/localization.safetensors
biaslab evaluate --model grounder --methods none,fastv,fastv:heads=quality,relative:heads=quality,localization_heads --keep 0.1 --layer 4 --split validation --n 300 --profile runs/readme/heads.safetensors --profile runs/readme/localization.safetensors --out runs/readme/heads
END
      ;;
    tower)  # ten minutes: docs/vision-tower.md
      cat <<'END'
biaslab bench --methods random,scope:by=vision,vispruner,hiprune --keep 0.1 --layer 0 --n 2 --repeats 21 --new-tokens 2
biaslab evaluate --model grounder --dataset scenes --split validation --keep 77 --layer 0 --n 150 --methods none,divprune,vispruner,hiprune,vscan,visionzip,visionzip:merge=true,visionzip:merge=added --out runs/readme/tower
END
      ;;
    check)  # seconds: docs/checking-a-model.md, docs/questions/is-my-prompt-right.md
      cat <<'END'
biaslab check --model grounder
END
      ;;
    reports)  # minutes: docs/reports.md (bytes, of a run of the same shape: 80 scenes, 14 configurations), docs/sharing.md
      cat <<'END'
biaslab fit-bias --model grounder --layers 3,5 --n 60 --out runs/readme/two-layers.safetensors
biaslab evaluate --model grounder --n 80 --layer 4 --keep 0.1 --methods none,random,uniform,fastv,fastv:score=no_rope,relative,divprune,d2pruner,d2pruner:pivots_suppress=true,mmr,cdpruner,scope,greedyprune,idselection --profile runs/readme/two-layers.safetensors --out runs/readme/report
biaslab report runs/readme/report --n 50 --out runs/readme/plain.html
biaslab report runs/readme/report --n 50 --attention 3,5 --out runs/readme/attention.html
python -c 'from pathlib import Path; [print(p, Path("runs/readme", p).stat().st_size) for p in ("two-layers.safetensors", "plain.html", "attention.html")]'
END
      ;;
    processes)  # a minute: docs/many-gpus.md (CPU seconds of one process and of two, shares that a hash gives)
      cat <<'END'
time biaslab evaluate --model grounder --n 4 --layer 4 --methods none --out runs/readme/one-process
time biaslab evaluate --model grounder --n 4 --layer 4 --methods none --processes 2 --out runs/readme/two-processes
python -c 'from biaslab.evaluation import Launch; [print(n, max(sum(Launch(rank=r, world_size=n).takes(str(i)) for i in range(9900)) for r in range(n)) * n / 9900 - 1) for n in (8, 16)]'
END
      ;;
    findings)  # a day: docs/findings.md, docs/findings/gap.png, docs/findings/depth.png, docs/findings/claims.png
      cat <<'END'
biaslab fit-bias --model grounder --n 600 --out runs/fair/positional.safetensors
biaslab fit-bias --model grounder --heads all --n 300 --maps runs/fair/maps --out runs/fair/heads.safetensors
biaslab fit-bias --model grounder --estimator localization_heads --layers 0-1 --n 600 --out runs/fair/localization-heads.safetensors
biaslab fit-bias --model grounder --estimator lookahead --n 10000 --out runs/fair/look-ahead.safetensors
python -m benchmarks.findings fit
python -m benchmarks.findings choose
python -m benchmarks.findings test
python -m benchmarks.findings unfamiliar
python -m benchmarks.findings_asked
python -m benchmarks.findings_claims --first-profiles runs/fair/positional.safetensors runs/fair/heads.safetensors runs/fair/localization-heads.safetensors runs/fair/look-ahead.safetensors
python -m tools.findings_figures
END
      ;;
    tilings)  # two hours: docs/findings.md (tiles and thumbnail)
      cat <<'END'
python -m benchmarks.tilings
END
      ;;
    decisions)  # hours: docs/rules.md, docs/schedules.md, docs/frames.md, docs/look-ahead.md (questions), docs/questions/model-or-images.md
      cat <<'END'
python -m benchmarks.rules
python -m benchmarks.schedules
python -m benchmarks.frames
python -m benchmarks.asked
python -m benchmarks.controls
END
      ;;
    long)  # an hour: docs/long-runs.md, docs/command-line.md (kills and logs)
      cat <<'END'
python -m benchmarks.kills
python -m benchmarks.logs
END
      ;;
    fair)  # a day: docs/fair.md
      cat <<'END'
biaslab fit-bias --model grounder --n 600 --out runs/fair/positional.safetensors
biaslab fit-bias --model grounder --heads all --n 300 --maps runs/fair/maps --out runs/fair/heads.safetensors
biaslab fit-bias --model grounder --estimator localization_heads --layers 0-1 --n 600 --out runs/fair/localization-heads.safetensors
biaslab fit-bias --model grounder --estimator lookahead --n 10000 --out runs/fair/look-ahead.safetensors
python -m benchmarks.fair choose --n 200 --profiles runs/fair/positional.safetensors runs/fair/heads.safetensors runs/fair/localization-heads.safetensors runs/fair/look-ahead.safetensors
python -m benchmarks.fair test --ablation-n 500 --profiles runs/fair/positional.safetensors runs/fair/heads.safetensors runs/fair/localization-heads.safetensors runs/fair/look-ahead.safetensors
python -m benchmarks.fair time --profiles runs/fair/positional.safetensors runs/fair/heads.safetensors runs/fair/localization-heads.safetensors runs/fair/look-ahead.safetensors
END
      ;;
    gpu)  # eight minutes on a machine with a CUDA device: docs/gpu.md
      cat <<'END'
make gpu
END
      ;;
    compat)  # an hour, and the network: docs/compatibility.md
      cat <<'END'
make compat
END
      ;;
    methods)  # seconds: docs/methods
      cat <<'END'
make method-pages
END
      ;;
    *) echo "readme_numbers.sh: no name '$1': choose from ${names[*]}, or list" >&2; exit 2 ;;
  esac
}

names=(readme profile demo k4 atlas lookahead bench pages observer heads tower check reports processes findings tilings decisions long fair gpu compat methods)

if [ $# = 0 ]; then set -- list; fi
if [ "$1" = list ]; then
  for name in "${names[@]}"; do
    echo "## $name: $(sed -n "s/^    $name)  # //p" "$0")"
    commands "$name"
  done
  exit 0
fi
for name in "$@"; do
  lines=$(commands "$name")
  mkdir -p runs/readme
  while IFS= read -r line; do
    echo "+ $line"
    bash -euo pipefail -c "$line" < /dev/null
  done <<< "$lines"
done
