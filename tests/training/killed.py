"""Processes that start with torch imported: what tests kill, or let run out of memory."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["diptych.training"])
