"""The public checkpoints that medseg knows: where they are, how to tell the right file, and under which licence.

`sha256` and `size` are of the published file. None means that nobody publishes them: such a file is recognised by its
layout only, and the hash of what is imported is recorded and checked from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

_SAM = "Kirillov et al., Segment Anything, arXiv:2304.02643"
_SAM3D = "Gong et al., 3DSAM-adapter, arXiv:2306.13465"
_SAM3D_PAGE = (
    "https://mycuhk-my.sharepoint.com/:f:/g/personal/1155187960_link_cuhk_edu_hk/"
    "EgSZwTonMG1Cl_PA7wTP5zgBe-DU4K5rb0woDt3i8U22SA?e=0jmfkq"
)
_SAM3D_NOTE = (
    "one OneDrive folder holds the checkpoints of all four data sets: import that set's last.pth.tar; which revision "
    "of the training code made it is unknown"
)
_BIOMEDCLIP = "Zhang et al., BiomedCLIP, arXiv:2303.00915"
_RESNET = "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385"


@dataclass(frozen=True)
class Entry:
    """One published checkpoint.

    Attributes:
        name: what `medseg weights pull|import|path` call it.
        method: which method needs it.
        layout: name of its state-dict layout in `medseg_cli.weights.layouts`.
        file: name of the published file.
        url: direct https address; empty when only a web page offers it.
        page: web page to read, or to fetch the file from by hand.
        size: bytes of the published file, None when unknown.
        sha256: of the published file: 64 hex digits, the first 8 where only these are published (torchvision puts them
            into the file name), or None when unknown.
        licence: of the weights.
        citation: what to cite.
        note: what else to know.
    """

    name: str
    method: str
    layout: str
    file: str
    url: str
    page: str
    size: int | None
    sha256: str | None
    licence: str
    citation: str
    note: str = ""


def _sam(size: str, file: str, count: int, sha256: str) -> Entry:
    return Entry(
        name=f"sam-vit-{size}",
        method="SAM",
        layout=f"sam-vit-{size}",
        file=file,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        page="https://github.com/facebookresearch/segment-anything#model-checkpoints",
        size=count,
        sha256=sha256,
        licence="Apache-2.0",
        citation=_SAM,
    )


def _sam3d(data: str) -> Entry:
    return Entry(
        name=f"sam3d-{data}",
        method="3DSAM-adapter",
        layout="3dsam-adapter",
        file="last.pth.tar",
        url="",
        page=_SAM3D_PAGE,
        size=None,
        sha256=None,
        licence="none stated by the authors",
        citation=_SAM3D,
        note=_SAM3D_NOTE,
    )


CATALOGUE: tuple[Entry, ...] = (
    _sam("b", "sam_vit_b_01ec64.pth", 375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam("l", "sam_vit_l_0b3195.pth", 1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("h", "sam_vit_h_4b8939.pth", 2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    Entry(
        name="medsam",
        method="MedSAM",
        layout="sam-vit-b",
        file="medsam_vit_b.pth",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        page="https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN",
        size=375049145,
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        licence="Apache-2.0",
        citation="Ma et al., Segment Anything in Medical Images, Nature Communications 15 (2024)",
        note="same layout as sam-vit-b, told apart by its hash",
    ),
    _sam3d("kits"),
    _sam3d("pancreas"),
    _sam3d("lits"),
    _sam3d("colon"),
    Entry(
        name="biomedclip",
        method="MedCLIP-SAM",
        layout="biomedclip",
        file="open_clip_pytorch_model.bin",
        url=(
            "https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224/resolve/"
            "9f341de24bfb00180f1b847274256e9b65a3a32e/open_clip_pytorch_model.bin"
        ),
        page="https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        size=783705670,
        sha256="52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be",
        licence="MIT",
        citation=_BIOMEDCLIP,
        note="hub id microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224, pinned to one revision",
    ),
    Entry(
        name="biomedclip-hf",
        method="MedCLIP-SAM",
        layout="biomedclip-hf",
        file="pytorch_model.bin",
        url="https://huggingface.co/chuhac/BiomedCLIP-vit-bert-hf/resolve/main/pytorch_model.bin",
        page="https://huggingface.co/chuhac/BiomedCLIP-vit-bert-hf",
        size=None,
        sha256="5bdc400de59a85620ddc7584d06913dc901c47f22647899c6addec71b9a5c9a2",
        licence="MIT (of BiomedCLIP, which it repackages)",
        citation=_BIOMEDCLIP,
        note="the same network as biomedclip under other key names",
    ),
    Entry(
        name="medclip-sam-v2",
        method="MedCLIP-SAM",
        layout="biomedclip-hf",
        file="pytorch_model.bin",
        url="",
        page="https://drive.google.com/file/d/1jjnZabUlc9_gpcP0d2nz_GNS-EGX0lq5/view",
        size=None,
        sha256=None,
        licence="MIT (the authors' repository; nothing is said of the weights)",
        citation="Koleilat et al., MedCLIP-SAMv2, arXiv:2409.19483",
        note="BiomedCLIP fine-tuned with DHN-NCE; about 784 MB. The weights of MedCLIP-SAM v1 were never published",
    ),
    Entry(
        name="samus",
        method="SAMUS",
        layout="samus",
        file="",
        url="",
        page="https://github.com/xianlin7/SAMUS",
        size=None,
        sha256=None,
        licence="MIT (the authors' repository; nothing is said of the weights)",
        citation="Lin et al., SAMUS, arXiv:2309.06824",
        note="CC-SAM builds on it; no CC-SAM or AutoSAMUS weights were published",
    ),
    Entry(
        name="sam-unet",
        method="SAM-UNet",
        layout="sam-unet",
        file="",
        url="",
        page="https://github.com/Hhankyangg/sam-unet",
        size=None,
        sha256=None,
        licence="none stated by the authors",
        citation="Yang et al., SAM-UNet, arXiv:2408.09886",
        note=(
            "no weights were published with SAM-UNet; its successor's repository (github.com/Hhankyangg/SyncSAM) was "
            "not checked. Own trainings with the official code can be imported"
        ),
    ),
    Entry(
        name="resnet34-imagenet",
        method="SAM-UNet",
        layout="resnet34",
        file="resnet34-b627a593.pth",
        url="https://download.pytorch.org/models/resnet34-b627a593.pth",
        page="https://pytorch.org/vision/stable/models/resnet.html",
        size=None,
        sha256="b627a593",
        licence="BSD-3-Clause (torchvision; trained on ImageNet)",
        citation=_RESNET,
    ),
    Entry(
        name="resnet50-imagenet",
        method="SAM-UNet, CC-SAM",
        layout="resnet50",
        file="resnet50-11ad3fa6.pth",
        url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        page="https://pytorch.org/vision/stable/models/resnet.html",
        size=None,
        sha256="11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        licence="BSD-3-Clause (torchvision; trained on ImageNet)",
        citation=_RESNET,
    ),
)


def entry(name: str) -> Entry | None:
    """The catalogue's entry of that name, if any."""
    return next((known for known in CATALOGUE if known.name == name), None)


def by_hash(sha256: str) -> Entry | None:
    """The catalogue's entry whose published file has that SHA-256, if any."""
    return next((known for known in CATALOGUE if known.sha256 and sha256.startswith(known.sha256)), None)
