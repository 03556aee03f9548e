"""The functions of `qadtr`, one file for each stage; the commands call the same ones."""
