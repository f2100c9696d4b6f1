import prov4ml

POINTS = [(10, 8.04), (8, 6.95), (13, 7.58), (9, 8.81), (11, 8.33), (14, 9.96)]
POINTS += [(6, 7.24), (4, 4.26), (12, 10.84), (7, 4.82), (5, 5.68)]  # Anscombe 1973, I

with prov4ml.start_run("line"):
    prov4ml.log_params({"learning_rate": 0.02, "steps": 4000})
    a = b = 0.0  # of the line y = a x + b
    for step in range(4000):
        errors = [(a * x + b - y, x) for x, y in POINTS]
        a -= 0.02 * sum(error * x for error, x in errors) / len(POINTS)
        b -= 0.02 * sum(error for error, _ in errors) / len(POINTS)
        prov4ml.log_metric("loss", sum(error**2 for error, _ in errors), "training", step)
    prov4ml.log_params({"a": a, "b": b})  # 0.500 and 3.00, as in the paper
