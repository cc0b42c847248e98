#!/bin/sh
# Both lungs of a frontal chest X-ray, without any prompt: `examples/xray.sh [XRAY.png|XRAY.dcm]`.
# Without an argument a drawn radiograph is segmented, because no patient's is in the repository.
set -eu
scan=${1:-out/scans/chest.png}
[ $# -gt 0 ] || python "$(dirname "$0")/draw_scans.py" out/scans
mkdir -p out/xray
medseg segment "$scan" -o out/xray/lungs.png --preset chest-xray-lungs --overwrite
echo "look at out/xray/lungs.png, lungs_preview.png and lungs.json"
