"""SAMUS (arXiv 2309.06824; official code MIT): SAM for ultrasound at 256 pixels, with a trained CNN branch."""
