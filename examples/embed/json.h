// A reader of JSON, as much as an exported folder needs: objects, lists, numbers, texts, true, false and null.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

class Json {
   public:
    using List = std::vector<Json>;
    using Object = std::vector<std::pair<std::string, Json>>;

    // Throws std::runtime_error that names the file: for one that cannot be read, and for one that is no JSON.
    static Json read(const std::filesystem::path& path);

    bool null() const { return std::holds_alternative<std::nullptr_t>(value_); }
    bool has(std::string_view name) const;  // and it is not null

    // These throw std::runtime_error where the value is of another kind, or has no such member.
    const Json& operator[](std::string_view name) const;
    const List& list() const { return as<List>("a list"); }
    const std::string& text() const { return as<std::string>("a text"); }
    double number() const { return as<double>("a number"); }
    bool boolean() const { return as<bool>("true or false"); }
    std::vector<double> numbers() const;

   private:
    friend class JsonParser;
    std::variant<std::nullptr_t, bool, double, std::string, List, Object> value_;

    template <typename Kind>
    const Kind& as(const char* expected) const;
};
