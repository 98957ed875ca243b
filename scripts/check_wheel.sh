#!/usr/bin/env bash
# Installs a wheel into a fresh environment and runs it far away from the checkout.
set -euo pipefail
wheel=$(realpath "$1")
models=$(realpath "$(dirname "$0")/../sample_models")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
cd "$folder"
PATH="$folder/venv/bin:$PATH"
onnxslim1x1 --version
onnxslim1x1 cost --input 14x14x480 --filters 48 --kernel 5 --reduce 16 | grep 5,268,480 > /dev/null
onnxslim1x1 analyze "$models/digits_googlenet.onnx" --threads 1 --json | python -m json.tool > analysis.json
onnxslim1x1 slim "$models/digits_googlenet.onnx" -o slim.onnx --threads 1 --time 1 --target-macs 0.5 \
    --calibration "$models/digits_calibration.npz" > slim.txt
onnxslim1x1 plan "$models/digits_googlenet.onnx" -o plan.json --rank inception_a/3x3=32 > plan.txt
onnxslim1x1 apply "$models/digits_googlenet.onnx" plan.json -o planned.onnx > apply.txt
onnxslim1x1 validate "$models/digits_googlenet.onnx" slim.onnx --threads 1 --time 1 \
    --data "$models/digits_evaluation.npz" --max-drop 0.02 > validation.txt
onnxslim1x1 init "$models/digits_googlenet.onnx" --data "$models/digits_evaluation.npz"
onnxslim1x1 validate --threads 1 --time 1 "$models/digits_googlenet.onnx" slim.onnx --max-drop 0.02 \
    --baseline baseline.json --update-baseline --junit gate.xml --sarif gate.sarif --summary gate.md > validation.txt
rm onnxslim1x1.toml
python -c "import onnxslim1x1, pathlib; assert 'site-packages' in onnxslim1x1.__file__; \
package = pathlib.Path(onnxslim1x1.__file__).parent; assert (package / 'py.typed').exists(); \
assert all((package / 'schemas' / f'{name}.schema.json').exists() \
           for name in ('plan', 'analysis', 'validation', 'baseline', 'config')); \
assert all((package / 'report' / 'web' / name).exists() \
           for name in ('page.css', 'page.js', 'base.html.jinja', 'analysis.html.jinja'))"
echo "$(basename "$wheel") installs and runs outside of the checkout"
