"""Networks that compare a picture with a sentence: BiomedCLIP and others of its kind, with what MedCLIP-SAM needs."""
