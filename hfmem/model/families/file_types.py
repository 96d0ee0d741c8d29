"""Model types whose weights only their files tell and which keep no cache, for `registry.FAMILIES`: `by_files.by_files` reads them.

Source: transformers 5.24.0 `models/auto/modeling_auto.py`: types mapped to tasks without generation, none of whose classes makes a
cache on its way to an output; and encoders that are published without the model around them.
"""

from __future__ import annotations

from typing import Final

_TEXT: Final = (
    "bros neomme ultravbert openai_privacy_filter canine dpr esmc funnel layoutlmv2 layoutlmv3 layoutxlm lilt luke lxmert "
    "markuplm perceiver splinter tapas visual_bert vilt clip_text_model siglip_text_model siglip2_text_model "
    "align_text_model altclip_text_model aimv2_text_model blip_text_model chinese_clip_text_model clap_text_model "
    "metaclip_2_text_model owlv2_text_model owlvit_text_model tipsv2_text_model videoprism_text_model xclip_text_model"
)
_IMAGE: Final = (
    "aimv2 aimv2_vision_model align align_vision_model altclip altclip_vision_model bit blip_vision_model "
    "blip_2_vision_model bridgetower chinese_clip chinese_clip_vision_model chmv2 clipseg conditional_detr convnext "
    "convnextv2 cvt d_fine dab-detr data2vec-vision deformable_detr deimv2 depth_anything depth_pro detr dinat "
    "dinov3_convnext dpt edgetam edgetam_video edgetam_vision_model efficientloftr efficientnet eomt eomt_dinov3 flava "
    "focalnet glpn grounding-dino groupvit hgnet_v2 hiera ijepa internvl_vision levit lightglue lw_detr lw_detr_vit "
    "mask2former maskformer maskformer-swin metaclip_2_vision_model mlcd mlcd_vision_model mm-grounding-dino mobilenet_v1 "
    "mobilenet_v2 mobilevit mobilevitv2 omdet-turbo oneformer owlv2 owlv2_vision_model owlvit owlvit_vision_model pixio "
    "poolformer pp_doclayout_v2 pp_doclayout_v3 pp_doclayout_v4 pp_lcnet pp_lcnet_v3 pp_lcnet_v4 pp_ocrv5_mobile_det "
    "pp_ocrv5_server_det pp_ocrv6_medium_det pp_ocrv6_small_det prompt_depth_anything pvt pvt_v2 radio regnet resnet "
    "rf_detr rf_detr_dinov2 rt_detr rt_detr_resnet rt_detr_v2 sam sam2 sam2_hiera_det_model sam2_video sam2_vision_model "
    "sam3 sam3_lite_text sam3_lite_text_text_model sam3_tracker sam3_tracker_video sam3_video sam3_vision_model "
    "sam3_vit_model sam_hq sam_hq_vision_model sam_vision_model sapiens2 segformer seggpt superglue superpoint swiftformer "
    "pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_rec pp_ocrv6_tiny_rec slanet slanext "
    "swin2sr table-transformer textnet timm_backbone timm_wrapper tipsv2 tipsv2_dpt tipsv2_vision_model upernet uvdoc "
    "uvdoc_backbone vision-text-dual-encoder vit_mae vit_msn vitdet vitmatte vitpose vitpose_backbone yolos zoedepth"
)
_VIDEO: Final = (
    "pe_video pe_video_encoder timesformer tvp videomae videomt videoprism videoprism_vision_model vivit vjepa2 xclip"
)
_AUDIO: Final = (
    "audio-spectrogram-transformer clap clap_audio_model dac data2vec-audio encodec granite_speech5_ctc "
    "granite_speech5_encoder higgs_audio_v2_tokenizer lasr_ctc lasr_encoder mimi neucodec nemotron3_diarization "
    "parakeet_encoder pe_audio pe_audio_encoder pe_audio_video pe_audio_video_encoder sew sew-d fastspeech2_conformer "
    "fastspeech2_conformer_with_hifigan vits speecht5_hifigan unispeech unispeech-sat univnet vibevoice_acoustic_tokenizer "
    "wav2vec2-bert wav2vec2-conformer wavtokenizer wavtokenizer_encoder xcodec xcodec2"
)
_SERIES: Final = "patchtsmixer patchtst timesfm timesfm2_5"

#: model_type → this rule, for `registry.FAMILIES`
BY_FILES: Final[dict[str, str]] = dict.fromkeys(
    " ".join((_TEXT, _IMAGE, _VIDEO, _AUDIO, _SERIES)).split(), "by_files:by_files"
)
