"""A second decoder and encoder of Sarsen's formats, written from the pages of spec/ alone."""
