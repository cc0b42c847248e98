#!/bin/sh
# One organ of a CT from a box in one slice, followed through the others:
# `examples/ct_box.sh [CT X0,Y0,X1,Y1 SLICE]`, the box in voxels of the axial slice.
# Without arguments the CT is a drawn one, because no patient's is in the repository.
# PRESET is sam-vit-b, or medsam, or one of your own. As long as its weights are not installed, the network's weights are
# random: slices, propagation and report are shown, and every output says that the mask means nothing.
set -eu
preset=${PRESET:-sam-vit-b}
[ $# -gt 0 ] || { python "$(dirname "$0")/draw_scans.py" out/scans; set -- out/scans/abdomen.nii.gz 77,59,98,77 30; }
mkdir -p out/ct
random=""
if [ "$preset" = sam-vit-b ] && ! medseg weights path sam-vit-b >/dev/null 2>&1; then
    echo "no weights here (medseg weights pull sam-vit-b fetches 375 MB): random ones show how it works" >&2
    random="--random-weights --max-slices 2"
fi
medseg segment "$1" -o out/ct/organ.nii.gz --preset "$preset" --modality CT --slices axial \
    --box "$2" --slice "$3" --keep largest --overwrite $random
echo "look at out/ct/organ.png, organ.json and organ.nii.gz"
