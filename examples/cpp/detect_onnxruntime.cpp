// Detects objects in a picture with an RT-DETR model in ONNX Runtime.
//
//     rtdetr export MODEL --preprocess --output model.onnx
//     detect_onnxruntime model.onnx picture.ppm [threshold]
//
// Prints one line an object: score, box (x1 y1 x2 y2, pixels of the picture), label and class name.
//
// Preprocessing: RGB, 8 bits, height x width x 3, of any size. All the rest is in the graph: stretching to the network's
// size without keeping the aspect ratio, bilinear with antialiasing, rounding to 8 bits, division by 255.
#include <onnxruntime_cxx_api.h>

#include <array>

#include "detections.hpp"

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: detect_onnxruntime model.onnx picture.ppm [threshold]\n";
        return 2;
    }
    try {
        Picture picture = read_ppm(arguments[2]);
        const float threshold = count > 3 ? read_threshold(arguments[3]) : 0.5f;

        Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "rtdetr");
        Ort::SessionOptions options;  // options.SetIntraOpNumThreads(4), options.AppendExecutionProvider_CUDA({}), ...
        Ort::Session session(environment, arguments[1], options);
        if (session.GetInputCount() != 1)
            throw std::runtime_error("expected a model with a picture as its only input: export it with --preprocess");

        Ort::AllocatorWithDefaultOptions allocator;
        const auto description = session.GetModelMetadata().LookupCustomMetadataMapAllocated("rtdetr", allocator);
        const auto names = class_names(description ? description.get() : "");

        const std::array<int64_t, 4> shape = {1, int64_t(picture.height), int64_t(picture.width), 3};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto images = Ort::Value::CreateTensor<uint8_t>(memory, picture.pixels.data(), picture.pixels.size(),
                                                              shape.data(), shape.size());
        const char* inputs[] = {"images"};
        const char* outputs[] = {"labels", "boxes", "scores"};
        auto results = session.Run(Ort::RunOptions(), inputs, &images, 1, outputs, 3);
        print_detections(results[2].GetTensorTypeAndShapeInfo().GetElementCount(), results[2].GetTensorData<float>(),
                         results[1].GetTensorData<float>(), results[0].GetTensorData<int64_t>(), names, threshold);
    } catch (const std::exception& error) {
        std::cerr << "detect_onnxruntime: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
