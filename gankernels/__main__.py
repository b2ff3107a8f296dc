"""`python -m gankernels` is the command `gankernels`."""

from gankernels.cli import main

raise SystemExit(main())
