"""How idle threads of numerical libraries wait."""

SPINS = {"GOMP_SPINCOUNT": "1000"}
"""For OpenMP, which reads it when torch is imported: a thread without work sleeps after a short spin. On a busy machine
libgomp's own 300,000 cost three to fifteen times the time, on a quiet one 1,000 cost nothing to a tenth."""
