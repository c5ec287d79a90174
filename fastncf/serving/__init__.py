"""Recommendations for users: who is asked for, which items are left out, and the answer as a frame or a file.

``users`` finds the users of a request, ``filters`` the items that each may get, ``answers`` puts both to a model, chunk
by chunk, and ``output`` writes an answer that need not fit the memory.
"""
