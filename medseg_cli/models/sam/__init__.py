"""SAM (arXiv 2304.02643) and every checkpoint of its layout, built from the `segment_anything` package."""
