"""Many scans in one run: what is run (`listing`), with what (`settings`), how (`work`, `local`), and its `record`s."""
