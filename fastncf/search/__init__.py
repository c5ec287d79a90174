"""Search for better settings by held-out items, within a budget of time.

``space`` says what is searched, ``trial`` trains and measures, ``study`` runs the trials and keeps them, and ``result``
is what was found.
"""
