#!/bin/bash
# Make every number and image of README.md and docs/ again, each with the command line that it is from.
#
#   tools/readme_numbers.sh list           every name with its commands, and how long they take on two CPU cores
#   tools/readme_numbers.sh NAME [NAME..]  run them, from the root of the repository, with biaslab installed (make demo)
#
# What is printed and written below runs/ and benchmarks/results/ is what the texts say; images are copied into docs/.
set -euo pipefail
cd "$(dirname "$0")/.."

commands() {
  case "$1" in
    readme)  # two minutes: README (three commands), docs/overview.png
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
    atlas)  # half an hour: docs/results.md (is it bias?), docs/atlas
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
python -c 'from biaslab.scenes import scene; scene("validation", 18).image.save("runs/readme/sheep.png")'
biaslab prune runs/readme/sheep.png "the rightmost sheep" --model grounder --methods none,lookahead --keep 0.1 --profile runs/readme/la.safetensors --out runs/readme/sheep
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
    decisions)  # hours: docs/rules.md, schedules.md, frames.md, look-ahead.md (questions), atlas (controls)
      cat <<'END'
python -m benchmarks.rules
python -m benchmarks.schedules
python -m benchmarks.frames
python -m benchmarks.asked
python -m benchmarks.controls
END
      ;;
    long)  # an hour: docs/long-runs.md (kills and logs)
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

names=(readme profile demo k4 atlas lookahead bench decisions long fair gpu compat methods)

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
