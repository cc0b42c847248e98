#!/bin/sh
# One organ of a CT from a box in one slice, followed through the others:
# `examples/ct_box.sh [CT X0,Y0,X1,Y1 SLICE]`, the box in voxels of the axial slice.
# Without arguments the kidney of a drawn CT is segmented, because no patient's is in the repository.
# PRESET=sam-vit-b (after `medseg weights pull sam-vit-b`) or PRESET=medsam takes a published model instead.
set -eu
[ $# -gt 0 ] || { python "$(dirname "$0")/draw_scans.py" out/scans; set -- out/scans/abdomen.nii.gz 77,59,98,77 30; }
mkdir -p out/ct
medseg segment "$1" -o out/ct/organ.nii.gz --preset "${PRESET:-box-any}" --modality CT --slices axial \
    --box "$2" --slice "$3" --keep largest --overwrite
echo "look at out/ct/organ.png, organ.json and organ.nii.gz"
