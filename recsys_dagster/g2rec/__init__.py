"""G2Rec: co-engagement graph, soft prototypes, interest tokens and the generative recommender."""
