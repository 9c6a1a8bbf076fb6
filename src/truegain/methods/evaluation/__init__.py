"""Statistics of stored records: pass@k, intervals, tests. Small pure functions on numpy arrays."""

from truegain.methods.evaluation._answer_clusters import answer_clusters
from truegain.methods.evaluation._best_of_n import best_of_n
from truegain.methods.evaluation._best_of_n_kl import best_of_n_kl
from truegain.methods.evaluation._best_temperature import best_temperature
from truegain.methods.evaluation._brier_score import brier_score
from truegain.methods.evaluation._calibration import Bin, Calibration, calibration, equal_mass_bins
from truegain.methods.evaluation._cluster_bootstrap import cluster_bootstrap
from truegain.methods.evaluation._clustered_mean import clustered_mean
from truegain.methods.evaluation._crossed_mean import crossed_mean
from truegain.methods.evaluation._difference_mean import difference_mean
from truegain.methods.evaluation._ensemble_disagreement import Disagreement, ensemble_disagreement
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._interquartile_mean import interquartile_mean
from truegain.methods.evaluation._kl_estimate import SequenceKL, kl_estimate
from truegain.methods.evaluation._length_matched import LengthMatched, Stratum, length_matched
from truegain.methods.evaluation._nested_bootstrap import nested_bootstrap
from truegain.methods.evaluation._objective_links import Link, Links, objective_links
from truegain.methods.evaluation._one_to_many import OneToMany, one_to_many, one_to_many_study
from truegain.methods.evaluation._overoptimization import (
    LawFit,
    law_bon,
    law_rl,
    overoptimization_bon,
    overoptimization_rl,
)
from truegain.methods.evaluation._paired_difference import paired_difference
from truegain.methods.evaluation._pass_at_k import pass_at_k
from truegain.methods.evaluation._pass_hat_k import pass_hat_k
from truegain.methods.evaluation._preference_gap import preference_gap
from truegain.methods.evaluation._probability_of_improvement import probability_of_improvement
from truegain.methods.evaluation._problem_means import problem_means
from truegain.methods.evaluation._proportion_mean import proportion_mean
from truegain.methods.evaluation._reward_fit import reward_fit
from truegain.methods.evaluation._reward_model_gap import reward_model_gap
from truegain.methods.evaluation._score_correlation import ScoreCorrelation, score_correlation
from truegain.methods.evaluation._self_consistency import self_consistency
from truegain.methods.evaluation._sign_flip import sign_flip
from truegain.methods.evaluation._stratified_bootstrap import stratified_bootstrap
from truegain.methods.evaluation._student_t import student_t_cdf, student_t_quantile
from truegain.methods.evaluation._thresholdout import Reusable, ReusableHoldout, thresholdout, thresholdout_study

__all__ = [
    "Bin",
    "Calibration",
    "Disagreement",
    "Estimate",
    "LawFit",
    "LengthMatched",
    "Link",
    "Links",
    "OneToMany",
    "Reusable",
    "ReusableHoldout",
    "ScoreCorrelation",
    "SequenceKL",
    "Stratum",
    "answer_clusters",
    "best_of_n",
    "best_of_n_kl",
    "best_temperature",
    "brier_score",
    "calibration",
    "cluster_bootstrap",
    "clustered_mean",
    "crossed_mean",
    "difference_mean",
    "ensemble_disagreement",
    "equal_mass_bins",
    "interquartile_mean",
    "kl_estimate",
    "law_bon",
    "law_rl",
    "length_matched",
    "nested_bootstrap",
    "objective_links",
    "one_to_many",
    "one_to_many_study",
    "overoptimization_bon",
    "overoptimization_rl",
    "paired_difference",
    "pass_at_k",
    "pass_hat_k",
    "preference_gap",
    "probability_of_improvement",
    "problem_means",
    "proportion_mean",
    "reward_fit",
    "reward_model_gap",
    "score_correlation",
    "self_consistency",
    "sign_flip",
    "stratified_bootstrap",
    "student_t_cdf",
    "student_t_quantile",
    "thresholdout",
    "thresholdout_study",
]
from truegain.methods.evaluation._rank_accuracy import rank_accuracy as rank_accuracy
