"""A stand-in for Occlum's tools, for tests on machines that cannot get the real ones.

It makes instances of the real shape (signed library with the configuration's tag in it, protected
files, Enclave.xml), protects nothing, and says so: its library OS carries imagekit's mark of
stand-ins. Python 3.8, standard library, ``sdk_enclaves.py`` beside this folder.
"""
