"""Reports: from run directories to findings, figures and one self-contained page."""
