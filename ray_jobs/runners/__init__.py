"""Where stages run: in this process, on Ray workers, as trials of Ray Tune."""
