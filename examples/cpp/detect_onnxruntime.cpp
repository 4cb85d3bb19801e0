// Detect objects in an image with an RT-DETR model in ONNX Runtime.
//
//     rtdetr export MODEL --preprocess --output model.onnx
//     detect_onnxruntime model.onnx image.ppm [threshold]
//
// Print one line per object: score, box (x1 y1 x2 y2, in pixels of the image), label and class name.
//
// Preprocessing: 8-bit RGB, height x width x 3, any size. The graph does the rest: it stretches the image to the network
// size without keeping the aspect ratio (bilinear with antialiasing), rounds to 8 bits and divides by 255.
#include <onnxruntime_cxx_api.h>

#include <array>

#include "detections.hpp"

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: detect_onnxruntime model.onnx image.ppm [threshold]\n";
        return 2;
    }
    try {
        Image image = read_ppm(arguments[2]);
        const float threshold = count > 3 ? read_threshold(arguments[3]) : 0.5f;

        Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "rtdetr");
        Ort::SessionOptions options;  // options.SetIntraOpNumThreads(4), options.AppendExecutionProvider_CUDA({}), ...
        Ort::Session session(environment, arguments[1], options);
        if (session.GetInputCount() != 1)
            throw std::runtime_error("expected a model with an image as its only input: export it with --preprocess");

        Ort::AllocatorWithDefaultOptions allocator;
        const auto description = session.GetModelMetadata().LookupCustomMetadataMapAllocated("rtdetr", allocator);
        const auto names = class_names(description ? description.get() : "");

        const std::array<int64_t, 4> shape = {1, int64_t(image.height), int64_t(image.width), 3};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto images = Ort::Value::CreateTensor<uint8_t>(memory, image.pixels.data(), image.pixels.size(),
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
