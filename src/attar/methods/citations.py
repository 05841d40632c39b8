"""BibTeX of the works that recipes rest on."""

from __future__ import annotations

ENTRIES: dict[str, str] = {
    "ld3m": """\
@misc{moser2024ld3m,
  title         = {Latent Dataset Distillation with Diffusion Models},
  author        = {Moser, Brian B. and Raue, Federico and Palacio, Sebastian and Frolov, Stanislav and
                   Dengel, Andreas},
  year          = {2024},
  eprint        = {2403.03881},
  archivePrefix = {arXiv}
}""",
    "glad": """\
@inproceedings{cazenavette2023glad,
  title     = {Generalizing Dataset Distillation via Deep Generative Prior},
  author    = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023}
}""",
    "latentdd": """\
@misc{duan2023latentdd,
  title         = {Dataset Distillation in Latent Space},
  author        = {Duan, Yuxuan and Zhang, Jianfu and Zhang, Liqing},
  year          = {2023},
  eprint        = {2311.15547},
  archivePrefix = {arXiv}
}""",
    "dm": """\
@inproceedings{zhao2023dm,
  title     = {Dataset Condensation with Distribution Matching},
  author    = {Zhao, Bo and Bilen, Hakan},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2023}
}""",
    "dsa": """\
@inproceedings{zhao2021dsa,
  title     = {Dataset Condensation with Differentiable Siamese Augmentation},
  author    = {Zhao, Bo and Bilen, Hakan},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021}
}""",
    "dc": """\
@inproceedings{zhao2021dc,
  title     = {Dataset Condensation with Gradient Matching},
  author    = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021}
}""",
    "idc": """\
@inproceedings{kim2022idc,
  title     = {Dataset Condensation via Efficient Synthetic-Data Parameterization},
  author    = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and
               Jeong, Joonhyun and Ha, Jung-Woo and Song, Hyun Oh},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2022}
}""",
    "mtt": """\
@inproceedings{cazenavette2022mtt,
  title     = {Dataset Distillation by Matching Training Trajectories},
  author    = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022}
}""",
    "tesla": """\
@inproceedings{cui2023tesla,
  title     = {Scaling Up Dataset Distillation to {ImageNet-1K} with Constant Memory},
  author    = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2023}
}""",
    "ftd": """\
@inproceedings{du2023ftd,
  title     = {Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation},
  author    = {Du, Jiawei and Jiang, Yidi and Tan, Vincent Y. F. and Zhou, Joey Tianyi and Li, Haizhou},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023}
}""",
    "datm": """\
@inproceedings{guo2024datm,
  title     = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author    = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2024}
}""",
    "herding": """\
@inproceedings{welling2009herding,
  title     = {Herding Dynamical Weights to Learn},
  author    = {Welling, Max},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2009}
}""",
    "k-centre": """\
@inproceedings{sener2018coreset,
  title     = {Active Learning for Convolutional Neural Networks: A Core-Set Approach},
  author    = {Sener, Ozan and Savarese, Silvio},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2018}
}""",
    "d3": """\
@article{qin2024d3,
  title   = {Distributional Dataset Distillation with Subtask Decomposition},
  author  = {Qin, Tian and Deng, Zhiwei and Alvarez-Melis, David},
  journal = {arXiv preprint arXiv:2403.00999},
  year    = {2024}
}""",
    "lic": """\
@misc{sun2024lic,
  title  = {Information Compensation: A Fix for Any-scale Dataset Distillation},
  author = {Sun, Peng and Shi, Bei and Shang, Xinyi and Lin, Tao},
  year   = {2024},
  note   = {OpenReview 2SnmKd1JK4}
}""",
    "rded": """\
@inproceedings{sun2024rded,
  title     = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},
  author    = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2024}
}""",
    "sre2l": """\
@inproceedings{yin2023sre2l,
  title     = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},
  author    = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2023}
}""",
    "fkd": """\
@inproceedings{shen2022fkd,
  title     = {A Fast Knowledge Distillation Framework for Visual Recognition},
  author    = {Shen, Zhiqiang and Xing, Eric},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2022}
}""",
}
