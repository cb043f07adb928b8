"""Processes whose death does not end the run."""
